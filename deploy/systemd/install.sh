#!/bin/sh
# Installs, upgrades and removes the agent as a systemd service.
#
#   install.sh install FILE.pyz [--server URL] [--key-file FILE] [--rapl] [--other-users-engines]
#   install.sh uninstall [--purge]
#
# FILE.pyz is the one-file agent (`make zipapp`); PYTHON names the Python, 3.11 or later, that runs it (default python3).
# The same command upgrades: settings, key and spool stay, and the program that was there is kept as wattmill.pyz.previous.
# Uninstalling leaves /etc/wattmill and /var/lib/wattmill, unless --purge. With DESTDIR files are laid there and nothing is
# started, as for the image of a node.
set -eu

here=$(dirname "$0")
root=${DESTDIR:-}
library=$root/usr/local/lib/wattmill
program=$root/usr/local/bin/wattmill
unit=$root/etc/systemd/system/wattmill-agent.service
users=$root/etc/sysusers.d/wattmill.conf
rules=$root/etc/udev/rules.d/60-wattmill-rapl.rules
settings=$root/etc/wattmill

fail() { echo "install.sh: $*" >&2; exit 2; }
live() { [ -z "$root" ]; }

install_agent() {
    [ $# -gt 0 ] || fail "install needs the one-file agent: install.sh install wattmill.pyz"
    pyz=$1 server='' key='' rapl='' others=''
    shift
    while [ $# -gt 0 ]; do
        case $1 in
            --server) [ $# -gt 1 ] || fail "--server needs an address"; server=$2; shift 2 ;;
            --key-file) [ $# -gt 1 ] || fail "--key-file needs a file"; key=$2; shift 2 ;;
            --rapl) rapl=yes; shift ;;
            --other-users-engines) others=yes; shift ;;
            *) fail "install knows no option $1" ;;
        esac
    done
    [ -f "$pyz" ] || fail "there is no file $pyz"
    [ -z "$key" ] || [ -s "$key" ] || fail "the key file $key is missing or empty"
    python=$(command -v "${PYTHON:-python3}") || fail "there is no ${PYTHON:-python3}; set PYTHON"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "the agent needs Python 3.11 or later; $python is $("$python" -V 2>&1). Set PYTHON to a newer one"
    case $("$python" -c 'import sys; print(sys.base_prefix)') in
        /home/* | /root/*) ! live || fail "$python lies in a home, which the agent can't see; set PYTHON to another one" ;;
    esac
    # What does not run does not replace what does.
    "$python" "$pyz" --version >/dev/null || fail "$pyz does not run with $python"

    mkdir -p "$library" "$(dirname "$program")" "$(dirname "$unit")" "$(dirname "$users")" "$settings"
    "$python" -m zipapp "$pyz" --python "$python" --output "$library/wattmill.pyz.new"
    chmod 0755 "$library/wattmill.pyz.new"
    if [ -f "$library/wattmill.pyz" ] && ! cmp -s "$library/wattmill.pyz" "$library/wattmill.pyz.new"; then
        cp -p "$library/wattmill.pyz" "$library/wattmill.pyz.previous"
    fi
    mv "$library/wattmill.pyz.new" "$library/wattmill.pyz"
    ln -sf ../lib/wattmill/wattmill.pyz "$program"
    cp "$here/wattmill-agent.service" "$unit"
    cp "$here/wattmill.sysusers.conf" "$users"
    if [ -n "$others" ]; then
        mkdir -p "$unit.d"
        cp "$here/other-users-engines.conf" "$unit.d/"
    fi
    if [ -n "$rapl" ]; then
        mkdir -p "$(dirname "$rules")"
        cp "$here/60-wattmill-rapl.rules" "$rules"
    fi
    if live; then
        systemd-sysusers "$users"
    fi
    if [ -n "$key" ]; then
        (umask 077 && cat "$key" >"$settings/agent.key.new")
        mv "$settings/agent.key.new" "$settings/agent.key"
    fi
    if [ ! -e "$settings/agent.yaml" ]; then
        {
            echo "# Settings of this host's agent; wattmill doctor checks them."
            if [ -n "$server" ]; then echo "server: $server"; else echo "#server: https://wattmill.example:8080"; fi
            if [ -n "$key" ]; then echo "key_file: /etc/wattmill/agent.key"; else echo "#key_file: /etc/wattmill/agent.key"; fi
        } >"$settings/agent.yaml"
    elif [ -n "$server" ]; then
        echo "install.sh: /etc/wattmill/agent.yaml is there and stays; --server changes nothing in it" >&2
    fi
    if live; then
        if [ -e "$settings/agent.key" ]; then
            chgrp wattmill "$settings/agent.key"
            chmod 0640 "$settings/agent.key"
        fi
        if [ -n "$rapl" ]; then
            udevadm control --reload
            udevadm trigger --subsystem-match=powercap --action=change
        fi
        systemctl daemon-reload
        systemctl enable --quiet wattmill-agent.service
        systemctl restart wattmill-agent.service
        echo "The agent runs: journalctl -u wattmill-agent; what it can't see: sudo -u wattmill wattmill doctor"
    fi
}

uninstall_agent() {
    purge=''
    case ${1:-} in
        '') ;;
        --purge) purge=yes ;;
        *) fail "uninstall knows no option $1" ;;
    esac
    if live && [ -e "$unit" ]; then
        systemctl disable --now --quiet wattmill-agent.service || true
    fi
    rm -rf "$unit" "$unit.d" "$users" "$rules" "$program" "$library"
    if live; then
        systemctl daemon-reload
    fi
    if [ -n "$purge" ]; then
        rm -rf "$settings/agent.yaml" "$settings/agent.key" "$root/var/lib/wattmill"
        rmdir "$settings" 2>/dev/null || true
        if live; then
            userdel wattmill 2>/dev/null || true
        fi
    else
        echo "Left in place: /etc/wattmill (settings, key) and /var/lib/wattmill (readings not yet sent); --purge removes them"
    fi
}

live && [ "$(id -u)" != 0 ] && fail "run it as root, or with DESTDIR"
case ${1:-} in
    install) shift; install_agent "$@" ;;
    uninstall) shift; uninstall_agent "$@" ;;
    *) fail "say what: install.sh install FILE.pyz [options] | install.sh uninstall [--purge]" ;;
esac
