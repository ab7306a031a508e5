"""Alerts out: findings posted to webhooks in the shape of Alertmanager's version 4. What it promises: docs/webhooks.md.

`notify` is the job; `payload` composes, `signing` signs, `address` says who may be posted to and `post` posts one;
`wanted` checks what people ask for, `command` is `wattmill webhook`.
"""
