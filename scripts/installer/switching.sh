# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# From one version to another, and back when the new one does not serve.

pending=$state/pending
journal=$data/journal.sqlite3
kept_journal=$data/before-upgrade.sqlite3
ready_s=30

# What ran before: also when an earlier run was interrupted after the switch.
find_previous() {
  previous=
  if [[ -e $current && ! -L $current ]]; then
    die "$current is a folder, and should be a link to a version" "move it away, and run this again"
  fi
  if [[ -f $pending ]]; then
    previous=$(<"$pending")
  elif [[ -L $current ]]; then
    previous=$(readlink "$current")
  fi
}

journal_version() {
  as_hub "$place/bin/python" -I -c 'import sqlite3, sys
print(sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True).execute("PRAGMA user_version").fetchone()[0])' "$1"
}

# A journal goes forward to a new version and never back.
keep_journal() {
  [[ -f $journal ]] || return 0
  as_hub "$place/bin/python" -I -c 'import sqlite3, sys
source, copy = map(sqlite3.connect, sys.argv[1:])
source.backup(copy)' "$journal" "$kept_journal.new" || die \
    "the journal could not be copied to $kept_journal; nothing was changed" "make room there; see the line above"
  chmod 0600 "$kept_journal.new"
  mv "$kept_journal.new" "$kept_journal"
}

put_journal_back() {
  local aside
  [[ -f $kept_journal && -f $journal ]] || return 0
  [[ $(journal_version "$journal") != "$(journal_version "$kept_journal")" ]] || return 0
  aside=$data/journal-of-${place##*/}.sqlite3
  for end in '' -wal -shm; do
    [[ ! -e $journal$end ]] || mv "$journal$end" "$aside$end"
  done
  cp -a "$kept_journal" "$journal"
  say "the journal is that of before; the new version's is $aside"
}

place_units() {
  local name
  place "$place/scripts/units/fnm-hub.service" "$units/fnm-hub.service" 0644
  for name in nftables isn-sync; do
    if uses "$name"; then
      place "$place/scripts/units/fnm-hub.service.d/$name.conf" "$units/fnm-hub.service.d/$name.conf" 0644
    else
      unplace "$units/fnm-hub.service.d/$name.conf"
    fi
  done
  if uses native; then
    place "$place/native/synproxyd.service" "$units/synproxyd.service" 0644
    place_interfaces
  fi
}

# Interfaces are the gateway's own matter: once they are said, in whatever drop-in, they stay.
place_interfaces() {
  local drop=$units/synproxyd.service.d words
  if grep -qs SYNPROXYD_OPTIONS "$drop"/*.conf; then
    return 0
  fi
  ((${#interfaces[@]})) || mapfile -t interfaces < <(default_interfaces)
  if ((${#interfaces[@]} == 0)); then
    say "nobody knows the interface of synproxyd; name it: $place/scripts/install --interface NAME"
    return 0
  fi
  words=$(printf -- ' --interface %s' "${interfaces[@]}")
  printf '[Service]\nEnvironment="SYNPROXYD_OPTIONS=%s"\n' "${words# }" >"$state/interfaces.conf"
  place "$state/interfaces.conf" "$drop/interfaces.conf" 0644
}

place_programs() {
  place "$place/scripts/fnm-notify" "$notify" 0755
  place_link "$current/bin/fnm-hub" /usr/local/bin/fnm-hub
  place_link "$current/sbin/synproxyd" /usr/local/sbin/synproxyd
}

switch() {
  if [[ $previous != "$place" && ! -f $pending ]]; then
    snapshot
    keep_journal
    printf '%s\n' "$previous" >"$pending.new"
    mv "$pending.new" "$pending"
  fi
  place_programs
  place_units
  place_link "$place" "$current"
}

unit_changed() { [[ " ${changed[*]} " == *"/$1.service"* ]]; }

synproxyd_is_current() {
  local pid
  systemctl --quiet is-active synproxyd.service || return 1
  pid=$(systemctl show -p MainPID --value synproxyd.service)
  ! unit_changed synproxyd && cmp -s "/proc/$pid/exe" "$current/sbin/synproxyd"
}

hub_is_current() {
  [[ ! -f $pending ]] && ! unit_changed fnm-hub && ! unit_changed synproxyd && systemctl --quiet is-active fnm-hub.service
}

hub_answers() {
  local tries=0
  until "$current/bin/fnm-hub" --config "$config" status >/dev/null 2>&1; do
    ((++tries < ready_s)) || return 1
    sleep 1
  done
}

# synproxyd first: what is in force is pinned and stays, and the hub that comes up finds it. While
# the hub is away, calls wait in the spool.
start_services() {
  local services=(fnm-hub.service)
  ! uses native || services=(synproxyd.service fnm-hub.service)
  if ! systemd_runs; then
    systemctl --quiet enable "${services[@]}" 2>/dev/null || true
    say "systemd does not run here: the units are in $units, and nothing was started." \
      "At the next boot, or now: systemctl enable --now ${services[*]}"
    return 0
  fi
  systemctl daemon-reload
  systemctl --quiet enable "${services[@]}"
  if uses native && ! synproxyd_is_current; then
    systemctl restart synproxyd.service || return 1
  fi
  if ! hub_is_current; then
    systemctl restart fnm-hub.service || return 1
  fi
  hub_answers && systemctl --quiet is-active "${services[@]}"
}

roll_back() {
  if systemd_runs; then
    systemctl stop fnm-hub.service || true
  fi
  put_snapshot_back
  put_journal_back
  place_link "$previous" "$current"
  rm -f "$pending"
  changed=()
  place=$previous
  start_services
}

finish_switch() {
  local why="journalctl -u fnm-hub -u synproxyd -n 40"
  if start_services; then
    rm -f "$pending"
    return
  fi
  if systemd_runs; then
    journalctl --quiet --no-pager -u fnm-hub -u synproxyd -n 12 -o cat >&2 || true
  fi
  if [[ -z $previous || $previous == "$place" ]]; then
    die "it was installed and does not serve" "look at: $why; then run this again"
  fi
  say "${place##*/} does not serve; going back to ${previous##*/}"
  if roll_back; then
    die "the new version does not serve, and ${previous##*/} runs again" "look at: $why"
  fi
  die "neither version serves; what is in force in the kernel holds until its deadline" "look at: $why"
}

our_packages() {
  dpkg-query -W -f '${Package} ${db:Status-Status}\n' 'fnm-hub-[0-9]*' 2>/dev/null |
    sed -n 's/ \(installed\|unpacked\|half-.*\|config-files\)$//p'
}

# One version back stays, for a step back that waits for nothing.
drop_old_packages() {
  local package
  while read -r package; do
    case /opt/$package in
      "$place" | "$previous") ;;
      *)
        dpkg --purge "$package" >/dev/null || say "the old package $package was not removed"
        ;;
    esac
  done < <(our_packages)
}
