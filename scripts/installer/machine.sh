# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What this machine is and can do, and what the hub needs of it: users, directories, a configuration.

# As the hub would see it: with its user and groups, and no capability.
as_hub() {
  (cd / && exec setpriv --reuid=fnm-hub --regid=fnm-hub --init-groups --inh-caps=-all \
    --bounding-set=-all env HOME="$data" "$@")
}

require_debian() {
  ((EUID == 0)) || die "it must run as root" "run it again as root, on the gateway itself"
  if [[ ! -f /etc/debian_version ]] || ! command -v apt-get >/dev/null; then
    die "this is neither Debian nor Ubuntu" "install by hand: 'By hand' in docs/operations.md"
  fi
  /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || die \
    "Debian's /usr/bin/python3 is missing, or older than 3.11" \
    "apt-get install python3; Debian 12, Ubuntu 24.04 and newer have one that is new enough"
}

make_users() {
  make_user fnm-hub "fnm-hub" "$data"
  make_user synproxyd "SYN proxy of fnm-hub"
  # The hub may write to synproxyd's control socket.
  usermod -aG synproxyd fnm-hub
}

make_directories() {
  install -d -o root -g root -m 0755 /etc/fnm-hub /etc/fnm-hub/rules
  install -d -o fnm-hub -g fnm-hub -m 0700 /etc/fnm-hub/keys "$data"
  # Who calls fnm-notify writes there, and the hub takes it away: set-group-id, and no sticky bit.
  install -d -o root -g fnm-hub -m 2770 "$spool"
}

default_interfaces() {
  { ip -o route show default && ip -o -6 route show default; } 2>/dev/null |
    sed -n 's/.* dev \([^ ]*\).*/\1/p' | sort -u
}

own_addresses() {
  ip -o address show scope global 2>/dev/null | awk '{ print $4 }'
  { ip -o route show default && ip -o -6 route show default; } 2>/dev/null |
    sed -n 's/.* via \([0-9a-f.:]*\) .*/\1/p'
}

# FastNetMon's own list of what it watches over.
listed_networks() {
  local list
  [[ -z $no_fastnetmon && -f $fastnetmon_conf ]] || return 0
  list=$(conf_value networks_list_path) || list=
  sed 's/#.*//' "${list:-/etc/networks_list}" 2>/dev/null | tr -s '[:space:]' '\n' | sed '/^$/d'
}

# Why XDP cannot serve on this kernel; nothing when it can.
kernel_refuses() {
  local release major minor
  release=$(uname -r)
  IFS=.- read -r major minor _ <<<"$release"
  if ((major < 5 || (major == 5 && minor < 18))); then
    printf 'kernel %s is older than 5.18\n' "$release"
  elif [[ ! -r /sys/kernel/btf/vmlinux ]]; then
    printf 'this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)\n'
  fi
}

# What synproxyd has against this machine and these interfaces, pins left aside: systemd sees to those.
xdp_refuses() {
  local words=() interface said
  for interface in "${interfaces[@]}"; do
    words+=(--interface "$interface")
  done
  said=$("$place/sbin/synproxyd" check "${words[@]}" 2>&1) || true
  grep -E '^no ' <<<"$said" | grep -v 'is not on a bpf file system' | sed 's/^no  *//' || true
}

require_interfaces() {
  local interface
  for interface in "${interfaces[@]}"; do
    [[ -e /sys/class/net/$interface ]] || die \
      "there is no interface $interface" "give --interface one of: $(cd /sys/class/net && echo *)"
  done
}

# Sets engine and interfaces; says why where it is not what one would want.
choose_engine() {
  local why
  ((${#interfaces[@]})) || mapfile -t interfaces < <(default_interfaces)
  [[ $engine != nftables ]] || return 0
  why=$(kernel_refuses)
  if [[ -z $why ]] && ((${#interfaces[@]} == 0)); then
    why="there is no default route, so that nobody knows the interface; name it with --interface"
  elif [[ -z $why && -x ${place:-}/sbin/synproxyd ]]; then
    why=$(xdp_refuses)
  fi
  if [[ -z $why ]]; then
    engine=native
  elif [[ $engine == native ]]; then
    die "the engine native cannot work here: $why" \
      "do what the line says, or take the kernel's SYN proxy: --engine nftables"
  else
    say "XDP cannot serve here, so that the engine is nftables: $why"
    engine=nftables
  fi
}

# What the configuration asks of systemd: the words native, nftables and isn-sync, as far as they hold.
uses=()
read_uses() {
  local said
  said=$(as_hub "$place/bin/python" -I -c 'import sys
from pathlib import Path
from hub.config import load_config
config = load_config(Path(sys.argv[1]))
engines, isn = config.engines, config.isn_sync
wanted = {
    "native": engines.native.enabled,
    "nftables": engines.nftables.enabled,
    "isn-sync": bool(isn.servers or isn.agents),
}
print(*[name for name, used in wanted.items() if used])' "$config")
  read -ra uses <<<"$said"
}

uses() { [[ " ${uses[*]} " == *" $1 "* ]]; }

write_config() {
  local words=() each
  for each in "${own[@]}"; do words+=(--own "$each"); done
  while read -r each; do words+=(--never "$each"); done < <(own_addresses)
  "$place/bin/python" -I "$place/scripts/installer/first_config.py" "$place/config.example.yaml" \
    --engine "$engine" "${words[@]}" >"$config.new" || die \
    "no configuration could be written from --own-prefix" "give networks, as 192.0.2.0/24 or 2001:db8::/32"
  chown fnm-hub:fnm-hub "$config.new"
  # The URL of a webhook is a secret, and FastNetMon's user is in the group.
  chmod 0400 "$config.new"
  mv "$config.new" "$config"
  changed+=("$config")
}

write_notify_conf() {
  [[ ! -e /etc/fnm-hub/notify.conf ]] || return 0
  cat >/etc/fnm-hub/notify.conf.new <<CONF
# How fnm-notify reaches the hub; every key is explained in docs/operations.md.
# The name of this FastNetMon in logs, rules and lists:
detector = $(hostname)
#socket = /run/fnm-hub/intake.sock
#spool = $spool
CONF
  chmod 0644 /etc/fnm-hub/notify.conf.new
  mv /etc/fnm-hub/notify.conf.new /etc/fnm-hub/notify.conf
}

# What decides is never changed by an upgrade; what is new lies beside it.
offer() {
  if [[ ! -e $2 ]]; then
    install -m 0644 "$1" "$2.fnm-hub-tmp"
    mv "$2.fnm-hub-tmp" "$2"
  elif cmp -s "$1" "$2"; then
    rm -f "$2.new"
  elif ! cmp -s "$1" "$2.new"; then
    install -m 0644 "$1" "$2.new"
    say "$2 stays as it is; this version ships another one: $2.new"
  fi
}

make_config() {
  local file
  for file in default.yaml default.test.yaml; do
    offer "$place/rules/$file" "/etc/fnm-hub/rules/$file"
  done
  install -m 0644 "$place/config.example.yaml" /etc/fnm-hub/config.example.yaml
  write_notify_conf
  if [[ -e $config ]]; then
    [[ -z $told_config ]] || say "$config is there already and stays; edit it for what the options say"
  else
    write_config
  fi
  read_uses
}

# The new version reads what is there before anything of the old one is touched.
check_config() {
  local said verb
  [[ -e $config ]] || return 0
  for verb in config rules; do
    said=$(as_hub "$place/bin/fnm-hub" --config "$config" "$verb" check 2>&1) && continue
    printf '%s\n' "$said" >&2
    die "this version refuses the configuration; nothing was changed${previous:+, and ${previous##*/} goes on}" \
      "mend the lines above, try with: $place/bin/fnm-hub $verb check; then run this again"
  done
}
