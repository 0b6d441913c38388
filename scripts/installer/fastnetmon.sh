# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# FastNetMon calls fnm-notify, and its user may write to the hub's socket; and back again.

fastnetmon_changed=

# The last line with a key is the one that FastNetMon follows.
conf_value() {
  sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*\(.*[^[:space:]]\)[[:space:]]*$/\1/p" "$fastnetmon_conf" 2>/dev/null |
    tail -n 1
}

fastnetmon_user() {
  local found=
  found=$(cat /{usr/lib,lib,etc}/systemd/system/fastnetmon.service /etc/systemd/system/fastnetmon.service.d/*.conf \
    2>/dev/null | sed -n 's/^User=//p' | tail -n 1)
  if [[ -z $found ]] && getent passwd fastnetmon >/dev/null; then
    found=fastnetmon
  fi
  printf '%s\n' "${found:-root}"
}

# none, ours, free (no script, or one that is not there) or taken
notify_state() {
  local script
  [[ -f $fastnetmon_conf ]] || { printf 'none\n' && return; }
  script=$(conf_value notify_script_path)
  case $script in
    "$notify") printf 'ours\n' ;;
    '') printf 'free\n' ;;
    *) if [[ -e $script ]]; then printf 'taken\n'; else printf 'free\n'; fi ;;
  esac
}

# set_notify FILE LINE: LINE takes the place of the last line with the key, or is added; without
# LINE, that line is taken away.
set_notify() {
  local last
  last=$(grep -nE '^[[:space:]]*notify_script_path[[:space:]]*=' "$1" | tail -n 1 | cut -d : -f 1) || last=
  if [[ -z $2 ]]; then
    [[ -z $last ]] || sed -i "${last}d" "$1"
  elif [[ -n $last ]]; then
    line=$2 awk -v last="$last" 'NR == last { print ENVIRON["line"]; next } { print }' "$1" >"$1.line"
    cat "$1.line" >"$1"
    rm "$1.line"
  else
    [[ -z $(tail -c 1 "$1") ]] || printf '\n' >>"$1"
    printf '%s\n' "$2" >>"$1"
  fi
}

write_conf() {
  local fresh=$fastnetmon_conf.fnm-hub-tmp
  cp -a "$fastnetmon_conf" "$fresh"
  set_notify "$fresh" "$1"
  sum_of "$fresh" >"$state/fastnetmon.conf.sum"
  mv "$fresh" "$fastnetmon_conf"
  fastnetmon_changed=1
}

wire_conf() {
  local before
  before=$(conf_value notify_script_path) || before=
  case $(notify_state) in
    none)
      say "there is no $fastnetmon_conf here. Install FastNetMon and run this again, or, with FastNetMon on" \
        "another host, follow 'A detector on another host' in docs/operations.md"
      ;;
    ours) say "FastNetMon calls $notify already" ;;
    taken)
      say "FastNetMon calls $before; that was left as it is, and the hub hears nothing yet. What to do: set" \
        "notify_script_path = $notify in $fastnetmon_conf and restart FastNetMon, or let one script call" \
        "both ('Beside another script' in docs/operations.md)"
      ;;
    free)
      # As it was found, and outside of the reach of the next run that finds our own line.
      cp -a "$fastnetmon_conf" "$state/fastnetmon.conf.tmp"
      mv "$state/fastnetmon.conf.tmp" "$state/fastnetmon.conf"
      write_conf "notify_script_path = $notify"
      if [[ -n $before ]]; then
        say "$fastnetmon_conf: notify_script_path was $before, which does not exist, and is $notify now"
      else
        say "$fastnetmon_conf: notify_script_path is $notify now"
      fi
      say "the file as it was found: $state/fastnetmon.conf"
      ;;
  esac
}

wire_user() {
  local user=$1
  [[ $user != root ]] || return 0
  if ! getent passwd "$user" >/dev/null; then
    say "FastNetMon's unit names the user $user, whom this machine does not know"
    return
  fi
  if ! id -nG "$user" | tr ' ' '\n' | grep -qx fnm-hub; then
    printf '%s\n' "$user" >"$state/group-member"
    usermod -aG fnm-hub "$user"
    fastnetmon_changed=1
    say "$user, as whom FastNetMon runs, is in the group fnm-hub now"
  fi
  [[ $user == fastnetmon ]] ||
    say "add $user to intake.unix.allow_users in /etc/fnm-hub/config.yaml, then restart the hub"
}

restart_fastnetmon() {
  [[ -n $fastnetmon_changed || -e $state/fastnetmon.restart ]] || return 0
  touch "$state/fastnetmon.restart"
  if ! systemd_runs; then
    say "restart FastNetMon by hand: it reads its configuration and its groups only when it starts"
  elif systemctl --quiet is-active fastnetmon.service; then
    systemctl restart fastnetmon.service ||
      say "FastNetMon did not start again: journalctl -u fastnetmon -n 20"
  fi
  rm "$state/fastnetmon.restart"
}

wire_fastnetmon() {
  if command -v fcli >/dev/null; then
    say "FastNetMon Advanced keeps its settings in a database of its own; what to do:" \
      "fcli set main notify_script_enabled enable; fcli set main notify_script_path $notify; fcli commit"
  fi
  wire_conf
  [[ ! -f $fastnetmon_conf ]] || wire_user "$(fastnetmon_user)"
  restart_fastnetmon
}

unwire_fastnetmon() {
  local kept=$state/fastnetmon.conf line user
  if [[ $(notify_state) == ours && -f $kept ]]; then
    if [[ $(sum_of "$fastnetmon_conf") == "$(cat "$state/fastnetmon.conf.sum")" ]]; then
      cp -a "$kept" "$fastnetmon_conf.fnm-hub-tmp"
      mv "$fastnetmon_conf.fnm-hub-tmp" "$fastnetmon_conf"
      fastnetmon_changed=1
      say "$fastnetmon_conf is as it was found"
    else
      line=$(grep -E '^[[:space:]]*notify_script_path[[:space:]]*=' "$kept" | tail -n 1) || line=
      write_conf "$line"
      say "$fastnetmon_conf was changed since; only notify_script_path is as it was found"
    fi
  elif [[ $(notify_state) == ours ]]; then
    say "notify_script_path in $fastnetmon_conf was set by hand; take it away by hand"
  fi
  if [[ -f $state/group-member ]]; then
    user=$(<"$state/group-member")
    if getent passwd "$user" >/dev/null && getent group fnm-hub >/dev/null; then
      gpasswd --delete "$user" fnm-hub >/dev/null 2>&1 || true
      fastnetmon_changed=1
    fi
  fi
  restart_fastnetmon
}
