# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Files outside of the package: each is put in its place whole, and its sum is written down before,
# so that the next run knows what is ours and what a person has changed.

sum_of() { sha256sum <"$1" | cut -d ' ' -f 1; }

# Any version that was ever put there counts, so that a run that was killed leaves no doubt.
is_ours() { [[ -f $1 ]] && grep -qsxF "$(sum_of "$1")  $1" "$state/sums"; }

recorded() { [[ ! -f $state/sums ]] || cut -d ' ' -f 3- "$state/sums" | sort -u; }

changed=() # what this run has put in place

# place FILE TO MODE
place() {
  local from=$1 to=$2 mode=$3 note
  mkdir -p "$(dirname "$to")"
  if [[ -e $to ]] && ! cmp -s "$from" "$to" && ! is_ours "$to"; then
    install -m "$mode" "$from" "$to.new"
    note="$to was changed by hand and stays; this version's is $to.new"
    [[ $to != *.service ]] || note+=" (own changes are better kept by: systemctl edit ${to##*/})"
    say "$note"
    return
  fi
  printf '%s  %s\n' "$(sum_of "$from")" "$to" >>"$state/sums"
  rm -f "$to.new"
  if ! cmp -s "$from" "$to"; then
    install -m "$mode" "$from" "$to.fnm-hub-tmp"
    mv "$to.fnm-hub-tmp" "$to"
    changed+=("$to")
  fi
}

# place_link TARGET LINK
place_link() {
  if [[ -e $2 && ! -L $2 ]]; then
    say "$2 is a file of somebody else's and stays; ours is $1"
  elif [[ $(readlink "$2") != "$1" ]]; then
    mkdir -p "$(dirname "$2")"
    ln -sfn "$1" "$2.fnm-hub-tmp"
    mv -T "$2.fnm-hub-tmp" "$2"
  fi
}

unplace() {
  rm -f "$1.new" "$1.fnm-hub-tmp"
  if is_ours "$1"; then
    rm -f "$1"
    changed+=("$1")
  elif [[ -e $1 ]]; then
    say "$1 was changed by hand and stays"
  fi
  [[ $1 != *.d/* || ! -d ${1%/*} ]] || rmdir --ignore-fail-on-non-empty "${1%/*}"
}

remove_placed() {
  local path
  while read -r path; do
    unplace "$path"
  done < <(recorded)
}

# remove_link TARGET LINK
remove_link() {
  if [[ -L $2 && $(readlink "$2") == "$1" ]]; then
    rm -f "$2"
  fi
}

# What is there now, so that a version that does not start can be taken back.
snapshot() {
  local path
  rm -rf "$state/before"
  mkdir "$state/before"
  while read -r path; do
    [[ ! -e $path ]] || cp -a --parents "$path" "$state/before/"
  done < <(recorded)
}

put_snapshot_back() {
  local path
  while read -r path; do
    if [[ -e $state/before$path ]]; then
      cp -a "$state/before$path" "$path.fnm-hub-tmp"
      mv "$path.fnm-hub-tmp" "$path"
    elif is_ours "$path"; then
      rm -f "$path"
    fi
  done < <(recorded)
}
