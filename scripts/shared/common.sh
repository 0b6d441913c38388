# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What the scripts share that make a machine ready. Each says before it reads this:
#   speaker   how its lines begin
#   failure   how its last line begins when it gives up

say() { printf '%s: %s\n' "${speaker:?}" "$*" >&2; }

die() {
  printf '%s: %s\n' "${failure:?}" "$1" >&2
  printf '  what to do: %s\n' "$2" >&2
  exit 1
}

# usage FILE FROM TO: these lines of the comment at the head of a script.
usage() { sed -n "s/^# \{0,1\}//; $2,$3p" "$1"; }

missing_packages() {
  local package state
  declare -A installed=()
  while read -r package state; do
    [[ $state == installed ]] && installed[$package]=1
  done < <(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null)
  for package in "$@"; do
    [[ ${installed[$package]:-} ]] || printf '%s\n' "$package"
  done
}

# Installs the packages, or package files, that are named; nothing may be wrong with being asked twice.
apt_install() {
  command -v apt-get >/dev/null || die \
    "this is no Debian machine (apt-get is missing)" "run it on Debian 12 or newer"
  local log apt=(apt-get install --yes --quiet --no-install-recommends -o DPkg::Lock::Timeout=300)
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  # The first try saves the update where the package lists are fresh; a failed update is no
  # reason to stop, because one broken extra source must not spoil a working main one.
  if ! "${apt[@]}" "$@" >"$log" 2>&1 </dev/null; then
    apt-get update --quiet >>"$log" 2>&1 </dev/null || say "apt-get update reported errors, going on"
    if ! "${apt[@]}" "$@" >>"$log" 2>&1 </dev/null; then
      tail -n 25 "$log" >&2
      die "apt-get could not install: $*" "see $log; then run: apt-get install $*"
    fi
  fi
  rm -f "$log"
}

# The folder is the lock, as in the tests: two may build at the same time.
build_native() {
  flock "$1/native" make --silent -C "$1/native" || die \
    "synproxyd could not be built" "read the compiler's lines above"
}

systemd_runs() { [[ -d /run/systemd/system ]]; }

# make_user NAME COMMENT [HOME]
make_user() {
  getent passwd "$1" >/dev/null && return
  useradd --system --user-group --no-create-home --home-dir "${3:-/nonexistent}" \
    --shell /usr/sbin/nologin --comment "$2" "$1"
}

# With its group, whoever else is in that.
remove_user() {
  if getent passwd "$1" >/dev/null; then
    userdel "$1" || say "the user $1 was not removed"
  fi
  if getent group "$1" >/dev/null; then
    groupdel "$1" || say "the group $1 was not removed"
  fi
}

# what synproxyd and its XDP program are built from
# shellcheck disable=SC2034 # used by those who read this
native_packages=(bpftool clang ethtool libbpf-dev libcap-dev libjansson-dev libseccomp-dev llvm make pkg-config)
