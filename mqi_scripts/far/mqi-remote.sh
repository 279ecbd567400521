#!/bin/sh
# mqi-remote: the far side of every session, in one program. It comes in over stdin (`sh -s`), so all of it is inside
# main() and a script that was cut off runs nothing. Needs POSIX sh, coreutils, util-linux. What it says stands between
# MQI-BEGIN <nonce> and MQI-END <nonce> <exit code>; without that last line nothing it said is evidence.
main() {
  nonce=$1 root=$2 engine=$3 queue=$4 conf=$5 slots=$6 ledger=$7 shown=$8 head=$9 verb=${10}
  shift 10
  umask 077
  set -f
  export LC_ALL=C PATH=/usr/local/bin:/usr/bin:/bin
  printf 'MQI-BEGIN %s\n' "$nonce"
  case $verb in
  check | look | stage | publish | submit | results | end | survey) "do_$verb" "$@" ;;
  *) say note "no such verb: $verb" && false ;;
  esac
  printf 'MQI-END %s %s\n' "$nonce" $?
}

say() { # WORD...: one line of the answer, fields parted by tabs
  blank=$IFS IFS='	'
  printf '%s\n' "$*"
  IFS=$blank
}

# --- the root: who owns it, and which head of the ledger it was shown last

owner() {
  owned=
  if [ -f "$root/ledger" ]; then IFS= read -r owned <"$root/ledger" || owned=; fi
  say root "${owned:--}"
}

own_root() { # under the root's lock (fd 7): it still says what the gateway checked; then it is shown the new head
  lock_root || return
  owner
  [ "$owned" = "$shown" ] || return 65
  show_head
}

lock_root() { exec 7>"$root/lock"; flock -w 60 7 || { say note "another session holds $root/lock" && return 75; }; }

show_head() {
  printf '%s %s\n' "$ledger" "$head" >"$root/ledger.new" && sync "$root/ledger.new" &&
    mv -T "$root/ledger.new" "$root/ledger" && say root "$ledger $head" || return 74
}

room() { say room "$(df -Pk "$root" 2>/dev/null | sed -n '2s/  */ /gp' | cut -d' ' -f4)"; }

# --- the queue, one engine each: ask prints its answer; add makes one task; find tells whether a label is there

ask_queue() {
  answer=$slots rc=0
  [ "$engine" = direct ] || answer=$(pq status --json 2>&1) || rc=$?
  [ "$rc" -eq 0 ] || answer=$(printf '%.2000s' "$answer" | tr '\n\t' '  ')
  say queue "$rc" "$answer"
}

pq() { # no child may keep the locks; no command of pueue has a time limit of its own
  env -i ${XDG_RUNTIME_DIR:+XDG_RUNTIME_DIR="$XDG_RUNTIME_DIR"} HOME="$HOME" PATH="$PATH" LANG=C.UTF-8 \
    timeout -k 2 20 "$queue" ${conf:+-c "$conf"} "$@" </dev/null 6>&- 7>&-
}

find_label() { # 0 found, 1 absent (the daemon said so), 2 unknown. The parsed label is compared, exactly.
  [ "$engine" = pueue ] || return 1
  seen=$(pq status --json "label=$1") || return 2
  case $seen in
  '{"tasks":{},"groups":{"'*'}}') return 1 ;;
  '{"tasks":{"'[0-9]*'"label":"'"$1"'"'*'}}') return 0 ;;
  esac
  return 2
}

add_task() { # KEY ATTEMPT GROUP: exit code and text are no evidence; the look afterwards is
  job="exec /bin/sh $wrapper $root $1 $2"
  case $engine in
  pueue) said=$(pq add -p "--label=mqi1:$1:$2" -g "$3" -w "$root" -- "$job" 2>&1) ;;
  direct) said=$(setsid -f /bin/sh -c "$job" </dev/null >/dev/null 2>&1 6>&- 7>&-) ;;
  esac || say note "adding mqi1:$1:$2 to $3: $(printf '%.300s' "$said" | tr '\n\t' '  ')"
}

# --- look: the queue first, then each attempt's claim, then its life, then its result: in this order nothing is
# called dead that lived, and nothing resultless that wrote its result while we looked

do_look() { # [KEY ATTEMPT]...
  owner
  room
  if [ ! -r "$root/cases" ] || [ ! -x "$root/cases" ]; then say note "$root/cases cannot be read" && return 69; fi
  ask_queue
  read -r boot </proc/sys/kernel/random/boot_id && read -r up _ </proc/uptime && up=${up%.*} logs=''
  held=" $(lock_files "$@" | xargs -r stat -c '%d %i %n' 2>/dev/null | awk '
    BEGIN { while ((getline line < "/proc/locks") > 0) { split(line, f, " "); if (f[2] == "FLOCK") busy[f[6]] = 1 } }
    { at = sprintf("%02x:%02x:%s", int($1 / 256) % 4096, $1 % 256 + int($1 / 1048576) * 256, $2)
      if (at in busy) { n = split($3, f, "/"); printf "%s ", f[n - 1] } }')"
  while [ $# -gt 1 ]; do
    look_one "$1" "$2"
    shift 2
  done
  say logs
  # shellcheck disable=SC2086 # paths of ours, without blanks
  printf '%s\n' $logs | xargs -r tail -v -c 600 2>/dev/null
  echo
}

lock_files() { while [ $# -gt 1 ]; do printf '%s\n' "$root/cases/$1/lock" && shift 2; done; }

look_one() { # KEY ATTEMPT
  at=$root/cases/$1/attempt-$2 folder=0 claim=none lock=0 alive=0 age='' status='' result='' ending='' digest=''
  if [ -d "$at" ]; then
    folder=1
    if [ -L "$at/claim" ] && [ "$(readlink "$at/claim")" = revoked ]; then claim=revoked
    elif [ -d "$at/claim" ] && [ ! -L "$at/claim" ]; then claim=begun logs="$logs $at/job.log"
    elif [ -e "$at/claim" ] || [ -L "$at/claim" ]; then claim=strange; fi
    recorded "$at"
    [ ! -f "$at/job" ] || read -r digest _ <"$at/job"
  fi
  case $held in
  *" $1 "*) lock=1 ;;
  *) [ ! -f "$root/cases/$1/lock" ] || flock -n 6 6<"$root/cases/$1/lock" || lock=1 ;;
  esac
  if [ "$born" = "$boot" ]; then
    age=$((up - since))
    [ $lock = 1 ] || ! group_lives || alive=1
  fi
  [ ! -f "$at/result" ] || IFS= read -r result <"$at/result"
  [ ! -f "$at/ending" ] || IFS= read -r ending <"$at/ending"
  say attempt "mqi1:$1:$2" $folder $claim $lock $alive "$age" "$status" "$result" "$ending" "$digest"
}

recorded() { # ATTEMPT-FOLDER: what the wrapper wrote when it began
  pgid='' ticks='' born='' since=''
  [ ! -f "$1/status" ] || read -r _ pgid ticks born since status <"$1/status"
}

group_lives() { # a process of the recorded group is there, no zombie, and its leader, if there is one, is the recorded one
  kill -s 0 -- "-$pgid" 2>/dev/null || return 1 # dash knows no `kill -0 --`
  (set +f && cat /proc/[0-9]*/stat 2>/dev/null) | awk -v group="$pgid" -v ticks="$ticks" '
    { pid = $1; sub(/.*\) /, "") } $3 == group && $1 != "Z" { lives = 1 }
    pid == group && ticks != "-" && $20 != ticks { other = 1 } END { exit !lives || other }'
}

# --- push: stage tells what is there, publish verifies, flushes and renames

do_stage() { # [KEY DIGEST]...
  if [ "$shown" = new ] && { [ -d "$root" ] || mkdir "$root"; } && lock_root && [ ! -f "$root/ledger" ]; then
    mkdir -p "$root/bin" "$root/cases" "$root/staging" "$root/slots" && show_head || return 74
  fi
  owner
  [ -n "$owned" ] || return 69
  room
  while [ $# -gt 1 ]; do
    if [ -d "$root/cases/$1/input-$2" ]; then
      say published "$1" "$2"
    elif [ -d "$root/staging/$1-$2/files" ]; then
      (cd "$root/staging/$1-$2/files" && find . -type f -printf "staged\t$1\t%s\t%P\n")
    fi
    shift 2
  done
}

do_publish() { # [KEY DIGEST]...
  own_root || return
  sync -f "$root/staging" & # while it is verified: what is left for the flush below is little
  good=
  while [ $# -gt 1 ]; do
    if [ -d "$root/cases/$1/input-$2" ]; then
      say published "$1" "$2"
    elif verify "$1" "$2"; then
      good="$good $1 $2"
    fi
    shift 2
  done
  sync -f "$root/staging" || return 74
  # shellcheck disable=SC2086 # keys and digests
  set -- $good
  while [ $# -gt 1 ]; do
    from=$root/staging/$1-$2 to=$root/cases/$1
    mkdir -p "$to" && : >>"$to/lock" && mv -T "$from/manifest" "$to/input-$2.sha256" &&
      mv -T "$from/files" "$to/input-$2" && chmod -R a-w "$to/input-$2" && rm -rf "$from" && say published "$1" "$2"
    shift 2
  done
  sync -f "$root/cases" || return 74
}

verify() { # KEY DIGEST: what is staged is the manifest's files and nothing else; what is wrong goes
  if ! cd "$root/staging/$1-$2/files" || [ "$(sha256sum <../manifest)" != "$2  -" ]; then
    say wrong "$1" "its manifest did not arrive whole" && return 1
  fi
  sort ../manifest >../expected
  odd=$(find . ! -type d ! -type f -print -delete)
  cores=$(nproc) files=$(wc -l <../manifest) tool=sha256sum # a few files a process, so that all cores are busy to the end
  ! openssl dgst -sha256 -r </dev/null >/dev/null 2>&1 || tool='stdbuf -oL openssl dgst -sha256 -r' # four times as fast
  # shellcheck disable=SC2086 # a command and its options
  wrong=$(find . -type f -print0 | xargs -0 -r -n $((files / cores / 4 + 1)) -P "$cores" $tool | sed 's| [ *]\./|  |' |
    sort | comm -3 - ../expected)
  rm -f ../expected
  [ -n "$wrong$odd" ] || return 0
  printf '%s\n' "$wrong" | sed -n 's|^\t*[0-9a-f]\{64\}  |./|p' | sort -u | tr '\n' '\0' | xargs -0 -r rm -f --
  say wrong "$1" "not all of its files verified" && return 1
}

# --- submit: revoke, make the attempts, add each once, look

do_submit() { # WRAPPER-DIGEST WRAPPER COMMAND VERSION-COMMAND LIMIT COUNT [KEY ATTEMPT]... COUNT [KEY ATTEMPT DIGEST
  # GROUP SLOTS DEVICES]... [KEY ATTEMPT]... : revoke these, add those, look at the rest
  own_root || return
  wrapper=$root/bin/$1/mqi-job text=$2 command=$3 version=$4 limit=$5 revokes=$6
  if [ ! -f "$wrapper" ]; then
    mkdir -p "$root/bin/$1" && printf '%s' "$text" >"$wrapper.new" && sync "$wrapper.new" && mv -T "$wrapper.new" "$wrapper"
  fi || return 74
  shift 6
  while [ "$revokes" -gt 0 ]; do # from now on it can never start, unless it has begun
    mkdir -p "$root/cases/$1/attempt-$2" && ln -sT revoked "$root/cases/$1/attempt-$2/claim" 2>/dev/null
    revokes=$((revokes - 1)) && shift 2
  done
  adds=$1 made=
  shift
  while [ "$adds" -gt 0 ]; do
    make_attempt "$@" && made="$made $1 $2 $4"
    adds=$((adds - 1)) && shift 6
  done
  [ -z "$made" ] || sync -f "$root/cases" || return 74
  # shellcheck disable=SC2086 # keys, numbers, groups
  printf '%s %s %s\n' $made | while read -r key number group; do [ -z "$group" ] || add_task "$key" "$number" "$group"; done
  exec 7>&-
  do_look "$@"
}

make_attempt() { # KEY ATTEMPT DIGEST GROUP SLOTS DEVICES: 0 if it is new, so that it gets its one add
  at=$root/cases/$1/attempt-$2
  [ ! -e "$at" ] && [ ! -L "$at" ] || return 1
  [ -d "$root/cases/$1/input-$3" ] || { say gone "$1" "its input is not on the host any more" && return 1; }
  find_label "mqi1:$1:$2"
  [ $? -eq 1 ] || return 1
  rm -rf "$at.new" && mkdir "$at.new" && printf '%s\n' "$command" >"$at.new/command" || return 1
  [ -z "$version" ] || printf '%s\n' "$version" >"$at.new/version-command"
  printf '%s\n' "$3 $4 $5 $limit $6" >"$at.new/job" && mv -T "$at.new" "$at"
}

# --- end: why first (the first writer wins), then TERM, grace, KILL, of the recorded group only

do_end() { # REASON GRACE [KEY ATTEMPT]...
  own_root || return
  why=$1 grace=$2
  shift 2
  read -r boot </proc/sys/kernel/random/boot_id
  end_each TERM "$@" || sleep "$grace"
  end_each KILL "$@" || true
}

end_each() { # SIGNAL [KEY ATTEMPT]...: 0 if no such group lives
  signal=$1 none=0
  shift
  while [ $# -gt 1 ]; do
    at=$root/cases/$1/attempt-$2
    recorded "$at"
    if [ "${pgid:-0}" -gt 1 ] && [ "$born" = "$boot" ] && group_lives; then
      printf '%s\n' "$why" >"$at/ending.$$" && sync "$at/ending.$$" && ln -T "$at/ending.$$" "$at/ending" 2>/dev/null
      rm -f "$at/ending.$$"
      none=1 && kill -s "$signal" -- "-$pgid"
    fi
    shift 2
  done
  return $none
}

# --- results: the files that match a pattern, hard-linked under their line number in the output manifest, and beside them
# what the wrapper wrote of the attempt and what the markers say of its log

do_results() { # PATTERNS FAILURE-MARKERS SUCCESS-MARKERS (one a line each) [KEY ATTEMPT]...
  owner
  patterns=$1 failure=$2 success=$3
  shift 3
  rm -rf "$root/outgoing" && mkdir "$root/outgoing" || return 74
  while [ $# -gt 1 ]; do
    link_results "$root/cases/$1/attempt-$2" "$root/outgoing/$1-$2" || say wrong "$1" "its results cannot be read"
    shift 2
  done
}

link_results() { # ATTEMPT-FOLDER OUTGOING-FOLDER
  mkdir "$2" && cp "$1/output.sha256" "$2/manifest" && cp "$1/command" "$1/status" "$1/result" "$2" &&
    marks "$1/job.log" >"$2/marks" && number=0 || return
  [ ! -f "$1/version" ] || cp "$1/version" "$2/version"
  while IFS= read -r line; do
    number=$((number + 1)) name=${line#*  ./}
    case $line in \\*) name=$(printf '%b.' "$name") && name=${name%.} ;; esac # sha256sum escapes \ and newline
    while IFS= read -r pattern; do
      # shellcheck disable=SC2254 # it is a pattern
      case $name in
      $pattern) [ -e "$2/$number" ] || ln -T "$1/output/$name" "$2/$number" || return ;;
      esac
    done <<END
$patterns
END
  done <"$1/output.sha256"
}

marks() { # LOG: lines of it that hold a failure marker, success markers that it lacks
  [ -r "$1" ] || return
  [ -z "$failure" ] || printf '%s\n' "$failure" | grep -a -m 3 -F -f - -- "$1" | cut -c 1-300 | sed 's/^/failure /'
  [ -z "$success" ] || printf '%s\n' "$success" | while IFS= read -r mark; do
    grep -q -a -F -e "$mark" -- "$1" || printf 'missing %s\n' "$mark"
  done
}

# --- survey: what the root has of every case; and the manifests of some inputs, for a gateway that lost them

do_survey() { # [KEY DIGEST]...
  own_root || return
  (cd "$root/cases" && find . -mindepth 1 -maxdepth 2 -type d -printf 'have\t%P\n') || return
  while [ $# -gt 1 ]; do
    sed "s/^/sum\t$1-$2\t/" "$root/cases/$1/input-$2.sha256" 2>/dev/null
    shift 2
  done
}

# --- check: what mqi-check asks about a host

do_check() {
  owner
  room
  say clock "$(date +%s)"
  for tool in flock setsid sha256sum timeout stat xargs awk tail sync; do
    command -v $tool >/dev/null || say lacks $tool
  done
  [ -d "$root" ] || root=${root%/*}
  [ -w "$root" ] || say note "$root is not writable by $(id -un)"
  [ "$engine" != pueue ] || say version "$(pq --version 2>&1 | head -n 1)"
  ask_queue
}
