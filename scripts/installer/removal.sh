# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Everything back: FastNetMon first, so that nobody is called who is no longer there.

pins=/sys/fs/bpf/synproxyd
table=fnm_hub

has_pins() { [[ -n $(ls -A "$pins" 2>/dev/null) ]]; }
has_table() { nft list table inet "$table" >/dev/null 2>&1; }

# Asks the hub to end what it has in force, and waits until it is over.
drain_hub() {
  local tries=0
  fnm_hub drain --yes --reason uninstall >/dev/null 2>&1 || return 0
  say "ending what is in force"
  while fnm_hub --json mitigations 2>/dev/null | "$current/bin/python" -I -c 'import json, sys
live = {"applying", "active", "releasing"}
sys.exit(not any(each["state"] in live for each in json.load(sys.stdin)["items"]))'; do
    if ((++tries > 15)); then
      say "the hub still has something in force"
      return
    fi
    sleep 1
  done
}

fnm_hub() { "$current/bin/fnm-hub" --config "$config" "$@"; }

take_off() {
  if has_pins; then
    "$current/sbin/synproxyd" detach >&2 || say "synproxyd detach failed: see the line above"
  fi
  if has_table; then
    nft delete table inet "$table" || say "nft delete table inet $table failed: see the line above"
  fi
}

tell_in_force() {
  if has_pins; then
    say "still in the kernel: XDP programs of synproxyd, pinned in $pins. What is in force ends at its" \
      "deadline; then they pass everything. To take them off: rm -r $pins (spliced connections break)"
  fi
  if has_table; then
    say "still in the kernel: the table inet $table, whose elements end at their deadlines." \
      "To take it off: nft delete table inet $table"
    if [[ $(sysctl -n net.netfilter.nf_conntrack_tcp_loose 2>/dev/null) == 0 ]]; then
      say "net.netfilter.nf_conntrack_tcp_loose is 0; the kernel's own default is 1"
    fi
  fi
}

stop_services() {
  local service
  for service in fnm-hub synproxyd; do
    [[ -e $units/$service.service ]] || continue
    if systemd_runs; then
      systemctl --quiet disable --now "$service.service" 2>/dev/null || true
    else
      systemctl --quiet disable "$service.service" 2>/dev/null || true
    fi
  done
}

remove_packages() {
  local package
  remove_link "$(readlink "$current")" "$current"
  while read -r package; do
    dpkg --purge "$package" >/dev/null || say "the package $package was not removed"
  done < <(our_packages)
}

remove_data() {
  local waiting
  waiting=$(find "$spool" -type f 2>/dev/null | wc -l)
  ((waiting == 0)) || say "$waiting calls in the spool are removed with it"
  rm -rf /etc/fnm-hub "$data" "$spool" /run/fnm-hub
  remove_user fnm-hub
  remove_user synproxyd
}

uninstall() {
  if [[ -n $detach ]]; then
    drain_hub
  fi
  mkdir -p "$state"
  unwire_fastnetmon
  stop_services
  [[ -z $detach ]] || take_off
  tell_in_force
  remove_placed
  remove_link "$current/bin/fnm-hub" /usr/local/bin/fnm-hub
  remove_link "$current/sbin/synproxyd" /usr/local/sbin/synproxyd
  if systemd_runs; then
    systemctl daemon-reload
  fi
  remove_packages
  rm -rf "$state"
  if [[ -n $purge ]]; then
    remove_data
    say "removed, with configuration, keys and journal"
  else
    say "removed; /etc/fnm-hub, $data and $spool stay (--uninstall --purge removes them)"
  fi
}
