{{/* One egress rule to networks and ports: {cidrs, ports}. */}}
{{- define "wattmill.toNetworks" -}}
- ports:
    {{- range .ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  to:
    {{- range .cidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
{{- end }}
