#!/bin/sh
# mqi-remote: the far side of every session, in one program. It comes in over stdin (`sh -s`), so all of it is inside
# main() and a script that was cut off runs nothing. Needs POSIX sh, coreutils, util-linux. What it says stands between
# MQI-BEGIN <nonce> and MQI-END <nonce> <exit code>; without that last line nothing it said is evidence.
main() {
  nonce=$1 root=$2 engine=$3 queue=$4 conf=$5 slots=$6 ledger=$7 shown=$8 head=$9 verb=${10}
  shift 10 && settle
  printf 'MQI-BEGIN %s\n' "$nonce"
  case $verb in
  check | look | stage | publish | submit | results | end | clean | survey) "do_$verb" "$@" ;;
  *) say note "no such verb: $verb" && false ;;
  esac
  printf 'MQI-END %s %s\n' "$nonce" $?
}

settle() { umask 077; set -f; export LC_ALL=C PATH=/usr/local/bin:/usr/bin:/bin; read -r boot </proc/sys/kernel/random/boot_id; }

pairs() { each=$1 && shift && while [ $# -gt 1 ]; do "$each" "$1" "$2"; shift 2; done; } # FUNCTION [KEY WORD]...

say() { # WORD...: one line of the answer, fields parted by tabs
  blank=$IFS IFS='	'
  printf '%s\n' "$*"
  IFS=$blank
}

# --- the root: who owns it, and which head of the ledger it was shown last

owner() { owned=$(head -n 1 "$root/ledger" 2>/dev/null); say root "${owned:--}"; }

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

size() { du -skc /dev/null "$@" 2>/dev/null | sed -n '$s/\t.*//p'; } # FOLDER...: kilobytes
room() { say room "$(df -k --output=avail,iavail "$root" 2>/dev/null | sed '1d; s/^ *//; s/  */\t/')"; } # kilobytes, inodes

# --- the queue, one engine each: ask prints its answer; add makes one task; find tells whether a label is there

ask_queue() { # its answer as one line of blanks, and the exit code behind it: an answer that is cut off has none
  [ "$engine" != direct ] || { say queue "$slots" 0 && return; }
  printf 'queue\t'
  { pq status --json 2>&1; printf '\001%s' $?; } | head -c 16000000 | tr '\n\t\001' '  \t'
  echo
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

drop_task() { # KEY ATTEMPT: what is under that label but $last, by the ids of this same look; no id, nothing is asked of the queue
  find_label "mqi1:$1:$2" || return
  for id in $(ids "$seen"); do # one that runs is refused, and leaves by itself: its claim is taken
    [ "$id" = "${last-}" ] || pq remove "$id" >/dev/null 2>&1
  done
}

ids() { printf '%s\n' "$1" | tr '{' '\n' | sed -n 's/^"id":\([0-9][0-9]*\),"created_at".*/\1/p'; }

# --- look: the queue first, then each attempt's claim, then its life, then its result: in this order nothing is
# called dead that lived, and nothing resultless that wrote its result while we looked

do_look() { # [KEY ATTEMPT]...
  owner
  room
  if [ ! -r "$root/cases" ] || [ ! -x "$root/cases" ]; then say note "$root/cases cannot be read" && return 69; fi
  ask_queue
  read -r up _ </proc/uptime && up=${up%.*} logs=''
  held=" $(lock_files "$@" | xargs -r stat -c '%d %i %n' 2>/dev/null | awk '
    BEGIN { while ((getline line < "/proc/locks") > 0) { split(line, f, " "); if (f[2] == "FLOCK") busy[f[6]] = 1 } }
    { at = sprintf("%02x:%02x:%s", int($1 / 256) % 4096, $1 % 256 + int($1 / 1048576) * 256, $2)
      if (at in busy) { n = split($3, f, "/"); printf "%s ", f[n - 1] } }')"
  pairs look_one "$@"
  printf '%s' "$logs" | xargs -r stat -c 'log	%s	%n' 2>/dev/null
  say logs
  printf '%s' "$logs" | xargs -r tail -v -c 600 2>/dev/null
  echo
}
lock_files() { while [ $# -gt 1 ]; do printf '%s\n' "$root/cases/$1/lock" && shift 2; done; }

look_one() { # KEY ATTEMPT
  at=$root/cases/$1/attempt-$2 folder=0 claim=none lock=0 alive=0 age='' status='' result='' ending='' digest=''
  if [ -d "$at" ]; then
    folder=1
    if [ -L "$at/claim" ] && [ "$(readlink "$at/claim")" = revoked ]; then claim=revoked
    elif [ -d "$at/claim" ] && [ ! -L "$at/claim" ]; then claim=begun && ! plain "$at/job.log" || logs="$logs $at/job.log"
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
  [ ! -f "$at/result" ] || IFS='	' read -r result _ <"$at/result"
  [ ! -f "$at/ending" ] || IFS='	' read -r ending _ <"$at/ending"
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
  if [ "$shown" = new ] && { [ -d "$root" ] || mkdir "$root" || { say note "$root cannot be made" && false; }; } && lock_root && [ ! -f "$root/ledger" ]; then
    mkdir -p "$root/bin" "$root/cases" "$root/staging" "$root/slots" && show_head || return 74
  fi
  owner
  [ -n "$owned" ] || return 69
  room
  pairs stage_one "$@"
}

published() { [ -d "$root/cases/$1/input-$2" ] && say published "$1" "$2"; }
stage_one() {
  published "$1" "$2" || (cd "$root/staging/$1-$2/files" && find . -type f ! -path '*[[:cntrl:]]*' -printf "staged\t$1\t%s\t%P\n")
} 2>/dev/null # neither published nor staged

do_publish() { # [KEY DIGEST]...
  own_root || return
  sync -f "$root/staging" & # while it is verified: what is left for the flush below is little
  good=
  pairs verify "$@"
  sync -f "$root/staging" || return 74
  # shellcheck disable=SC2086 # keys and digests
  pairs publish_one $good
  sync -f "$root/cases" || return 74
}

publish_one() {
  from=$root/staging/$1-$2 to=$root/cases/$1
  { mkdir -p "$to" && : >>"$to/lock" && mv -T "$from/manifest" "$to/input-$2.sha256" && mv -T "$from/files" "$to/input-$2" &&
    chmod -R a-w "$to/input-$2" && rm -rf "$from" && say published "$1" "$2"; } || say wrong "$1" "it cannot be moved into $to: see there what is in the way (ls -la, df -h)"
}

verify() { # KEY DIGEST: it is good if what is staged is the manifest's files and nothing else; what is wrong goes
  ! published "$1" "$2" || return
  { cd "$root/staging/$1-$2/files" && [ "$(sha256sum <../manifest)" = "$2  -" ]; } ||
    { say wrong "$1" "its manifest did not arrive whole" && return 1; }
  sort ../manifest >../expected || { say wrong "$1" "it could not be compared" && return 1; }
  odd=$(find . \( ! -type d ! -type f -o -path '*[[:cntrl:]\\]*' \) -print -delete)
  cores=$(nproc) files=$(wc -l <../manifest) tool=sha256sum # a few files a process, so that all cores are busy to the end
  ! openssl dgst -sha256 -r </dev/null >/dev/null 2>&1 || tool='stdbuf -oL openssl dgst -sha256 -r' # four times as fast
  # shellcheck disable=SC2086 # a command and its options
  wrong=$(find . -type f -print0 | xargs -0 -r -n $((files / cores / 4 + 1)) -P "$cores" $tool | sed 's| [ *]\./|  |' |
    sort | comm -3 - ../expected) || { say wrong "$1" "it could not be compared" && return 1; }
  rm -f ../expected
  [ -n "$wrong$odd" ] || { good="$good $1 $2" && return; }
  printf '%s\n' "$wrong" | sed -n 's|^\t*[0-9a-f]\{64\}  |./|p' | sort -u | tr '\n' '\0' | xargs -0 -r rm -f --
  say wrong "$1" "not all of its files verified" && return 1
}

# --- submit: revoke, make the attempts, add each once, look

do_submit() { # WRAPPER-DIGEST WRAPPER COMMAND VERSION-COMMAND LIMIT [revoke KEY ATTEMPT]... [add KEY ATTEMPT DIGEST GROUP
  # SLOTS DEVICES]... look [KEY ATTEMPT]...
  own_root || return
  wrapper=$root/bin/$1/mqi-job text=${2:-$(installed_wrapper)} command=$3 version=$4 limit=$5 && shift 5
  [ -f "$wrapper" ] || { mkdir -p "${wrapper%/*}" && printf '%s\n' "$text" >"$wrapper.new" && sync "$wrapper.new" &&
    mv -T "$wrapper.new" "$wrapper"; } || return 74
  while [ "$1" = revoke ]; do # from now on it can never start, unless it has begun
    mkdir -p "$root/cases/$2/attempt-$3" && ln -sT revoked "$root/cases/$2/attempt-$3/claim" 2>/dev/null &&
      drop_task "$2" "$3"
    shift 3
  done
  made=
  while [ "$1" = add ]; do
    shift
    make_attempt "$@" && made="$made $1 $2 $4"
    shift 6
  done
  [ -z "$made" ] || sync -f "$root/cases" || return 74
  # shellcheck disable=SC2086 # keys, numbers, groups
  printf '%s %s %s\n' $made | while read -r key number group; do [ -z "$group" ] || add_task "$key" "$number" "$group"; done
  exec 7>&- && shift
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
  why=$1 grace=$2 && shift 2
  end_each TERM "$@" || while [ "$grace" -gt 0 ] && ! end_each 0 "$@"; do sleep 1 && grace=$((grace - 1)); done
  end_each KILL "$@" || true
}

end_each() { # SIGNAL [KEY ATTEMPT]...: 0 if no such group lives
  signal=$1 none=0 && shift
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

do_results() { # MEGABYTES PATTERNS FAILURE-MARKERS SUCCESS-MARKERS (one a line each) [KEY ATTEMPT]...: the first that fit, at least one
  owner && most=$(($1 * 950)) patterns=$2 failure=$3 success=$4 && shift 4 && first=$1
  [ "${owned%% *}" = "$ledger" ] && rm -rf "$root/outgoing" && mkdir "$root/outgoing" || return 74
  while [ $# -gt 1 ]; do
    if ! link_results "$root/cases/$1/attempt-$2" "$root/outgoing/$1-$2"; then
      head -c 1000000 /dev/zero >"$root/outgoing/room" || return 74 # else a full disk would count as damaged results
      rm "$root/outgoing/room" && say wrong "$1" "its results cannot be read"
    fi
    most=$((most - $(size --apparent-size "$root/outgoing/$1-$2")))
    [ "$most" -gt 0 ] || { [ "$first" = "$1" ] || rm -rf "$root/outgoing/$1-$2" && break; }
    shift 2
  done
}
plain() { [ -f "$1" ] && [ ! -L "$1" ]; } # not what a job put in the place of a file of ours: a FIFO would never end

link_results() { # ATTEMPT-FOLDER OUTGOING-FOLDER
  for one in output.sha256 command status result job.log; do plain "$1/$one" || return; done
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

marks() { # LOG: lines of it that hold a failure marker, success markers that it lacks; and, if all was read and said, `end`
  if [ -n "$failure" ] && { printf '%s\n' "$failure" | grep -q -a -F -f - -- "$1" || [ $? -ne 1 ]; }; then
    printf '%s\n' "$failure" | grep -a -m 3 -F -f - -- "$1" | cut -c 1-300 | sed 's/^/failure /' | grep -a . || return
  fi
  [ -z "$success" ] || printf '%s\n' "$success" | while IFS= read -r mark; do
    grep -q -a -F -e "$mark" -- "$1" || { [ $? -eq 1 ] && printf 'missing %s\n' "$mark"; } || exit
  done && printf 'end\n'
}

# --- clean: what cases at rest leave of input and output gets another name, whole, and goes; so do their tasks, but for the
# queue's last, whose id would be given again; and what was staged and is old. Claims, results, manifests and logs stay

do_clean() { # DO (0: only tell what would go) MINUTES [KEY ATTEMPT]...
  act=$1 minutes=$2 plain='[A-Za-z0-9._/+=@-]*' && shift 2 # what a job may have named otherwise is left alone
  if [ "$act" = 1 ]; then own_root; else owner; fi || return
  last=$(ids "$(pq status --json 2>&1)" | sort -n | tail -n 1)
  pairs clean_case "$@"
  exec 7>&- # the rest may take its time: it is nobody's
  old=$(find "$root/staging" "$root/outgoing" "$root/incoming" -maxdepth 1 -regex "$plain/[0-9a-f-]+" -mmin "+$minutes" 2>/dev/null
    find "$root/cases" -mindepth 2 -maxdepth 3 -type d -regex "${plain}[.]old-[0-9]+")
  # shellcheck disable=SC2086 # plain paths
  say left "$(size $old)" &&
    { [ "$act" = 0 ] || { sync -f "$root/cases" && chmod -R u+rwX "$root/staging" $old && rm -rf $old; } || return 74; }
  room
}

clean_case() { # KEY ATTEMPT: nothing is said of it if an attempt lives, could start or is a later one, or the queue is silent
  [ -f "$root/cases/$1/lock" ] || { say cleaned "$1" 0 && return; } # nothing of it was ever published here
  for number in $(find "$root/cases/$1" -maxdepth 1 -name 'attempt-*[0-9]' -printf '%f ' | sed 's/attempt-//g'); do
    look_one "$1" "$number" >/dev/null
    case $claim$lock$alive in begun00 | revoked00) [ "$number" -le "$2" ] ;; *) false ;; esac || return
    [ "$act" = 0 ] || drop_task "$1" "$number" || [ $? -eq 1 ] || return
  done
  old=$(find "$root/cases/$1" -maxdepth 2 -type d -regextype egrep -regex "$plain/(input-[0-9a-f]{64}|attempt-[0-9]+/output)")
  # shellcheck disable=SC2086
  kilobytes=$(size $old)
  [ "$act" = 0 ] || (flock -n 6 && for at in $old; do mv -T "$at" "$at.old-${head%% *}" || exit; done) 6<"$root/cases/$1/lock" || return
  say cleaned "$1" "$kilobytes"
}

# --- survey: what the root has of every case; and the manifests of some inputs, for a gateway that lost them

do_survey() { # [KEY DIGEST]...
  own_root || return
  (cd "$root/cases" && find . -mindepth 1 -maxdepth 2 -type d -printf 'have\t%P\n') || return
  pairs sums_of "$@"
}
sums_of() { sed "s/^/sum\t$1-$2\t/" "$root/cases/$1/input-$2.sha256" 2>/dev/null; }

# --- check: what mqi-check asks about a host

do_check() {
  began=$(date +%s.%N) real=$(readlink -f "$root")
  owner && { [ -d "$root" ] || root=${root%/*}; }
  room && say mode "$(stat -c %a "$root" 2>/dev/null)"
  for tool in flock setsid sha256sum timeout stat xargs awk tail sync find sort comm nproc readlink df tar; do
    command -v $tool >/dev/null || say lacks $tool
  done
  for tool in sync flock; do say tool "$($tool --version 2>/dev/null | head -n 1)"; done
  (set +f && find /proc/[0-9]*/fd \( -lname "$real/cases/*/lock" -o -lname "$real/slots/*" \) -printf '%h\t%l\n' 2>/dev/null) |
    while IFS='	' read -r at lock; do read -r name <"${at%fd}comm" && say holds "${lock#"$real/"}" "${at%/fd}" "$name"; done
  [ -w "$root" ] || say note "$root is not writable by $(id -un)"
  [ "$engine" != pueue ] || say version "$(pq --version 2>&1 | head -n 1)"
  (set +f && grep -sl '^pueued$' /proc/[0-9]*/comm) | while read -r at; do # what runs need not be what is installed by now
    text=$(timeout 5 "${at%comm}exe" --version 2>/dev/null) && say daemon "$text" "$(tr '\0' ' ' <"${at%comm}cmdline")"
  done
  ask_queue
  say clock "$began" "$(date +%s.%N)"
}

# --- the gate: this program, installed as a key's forced command. That line of authorized_keys names root, engine and queue. The
# session names the verb; its words come over stdin, and all of them must have the form that the verb asks for

gate() { # --root DIR [--engine ENGINE] [--pueue FILE] [--pueue-config FILE] [--slots N] [--jobs DIR]
  settle && root='' engine=pueue queue=pueue conf='' slots=1 jobs=''
  for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
    case $name in HOME | PATH | LC_ALL | XDG_RUNTIME_DIR | SSH_ORIGINAL_COMMAND) ;; *) unset "$name" ;; esac
  done
  while [ $# -gt 1 ]; do
    case $1 in
    --root) root=$2 ;; --engine) engine=$2 ;; --slots) slots=$2 ;;
    --pueue) queue=$2 ;; --pueue-config) conf=$2 ;; --jobs) jobs=$2 ;;
    *) break ;;
    esac
    shift 2
  done
  { [ $# -eq 0 ] && [ -n "$root" ]; } || refuse "its line in authorized_keys is wrong at ${1:---root}: see docs/compute-host.md"
  case ${SSH_ORIGINAL_COMMAND-} in
  'mqi-remote send') unpack ;;
  'mqi-remote bring') tar -cf - -C "$root/outgoing" . ;;
  *) enter "${SSH_ORIGINAL_COMMAND-}" ;;
  esac
}

refuse() { printf 'mqi-remote: %s\n' "$*" >&2; exit 78; }

enter() { # COMMAND: its words are one line, a blank between two, each byte of a word that is no plain character as \0ooo
  id='[0-9a-f]{16}' sum='[0-9a-f]{64}' line='(rebuilding-)?[0-9a-f]{64}' n='[0-9]{1,9}' text='([]!-[^-~]|\\0(0[1-7]|[1-3][0-7])[0-7])*'
  at='[0-9a-f]{20} [1-9][0-9]{0,5}' group='[A-Za-z0-9._][A-Za-z0-9._-]{0,99}' devices='([A-Za-z0-9,._:/-]|\\0040)+'
  case $1 in
  'mqi-remote check') form= ;;
  'mqi-remote look') form="( $at)*" ;;
  'mqi-remote stage' | 'mqi-remote publish' | 'mqi-remote survey') form="( [0-9a-f]{20} $sum)*" ;;
  'mqi-remote submit') form=" $id  $text $text $n( revoke $at)*( add $at $sum $group $n $devices)* look( $at)*" ;;
  'mqi-remote results') form=" $n $text $text $text( $at)*" ;;
  'mqi-remote clean') form=" [01] $n( [0-9a-f]{20} $n)*" ;;
  'mqi-remote end') form=" $text [0-9]{1,2}( $at)*" ;;
  *) refuse "this key opens a gate, and that is no command of it (hosts.<name>.gate = true on the gateway)" ;;
  esac
  words=$(timeout 300 head -c 4000000 | tr '\000\n' '\002\002') nonce=${words%% *} version=${words#* }
  [ "${version%% *}  -" = "$(sha256sum <"$0")" ] || refuse "$0 is not the version of the gateway. On the gateway:" \
    "mqi-check --far | ssh root@$(uname -n) 'install -m 0755 /dev/stdin $0'"
  form="$id $sum /[A-Za-z0-9._/+=@-]+ [a-z]+ ($id)? (-|new|$id\\\\0040$n\\\\0040$line) $n\\\\0040($line)? ${1#* }$form $id"
  { printf '%s\n' "$words" | grep -Eqxe "$form" && [ "${words##* }" = "$nonce" ]; } || refuse "words that are cut off, or formless"
  blank=$IFS IFS=$(printf '\002') # no word can have that byte
  # shellcheck disable=SC2046
  set -- $(printf '%b' "$(printf '%s' "${words% *}" | tr ' ' '\002')")
  IFS=$blank
  [ "$3 $4" = "$root $engine" ] || refuse "its line in authorized_keys is for root $root, engine $engine: so must be hosts.<name>"
  shift 4
  [ "$4" != submit ] || { allowed "$7" && allowed "$8"; } || refuse "no file of $jobs is job.command, or version_command"
  main "$nonce" "$root" "$engine" "$queue" "$conf" "$slots" "$@"
}

allowed() { # TEXT: a file in the folder of --jobs, if there is one, is that text
  [ -n "$jobs" ] && [ -n "$1" ] || return 0
  (set +f && for file in "$jobs"/*; do [ "$(cat "$file")" != "$(printf '%s' "$1")" ] || exit 0; done; exit 1)
}

unpack() { # a tar of inputs, first into a folder of its own: anything odd in it, and all of it goes; what came of a cut one stays
  fresh=$root/incoming/$$ name='[A-Za-z0-9_][A-Za-z0-9 ._:+=@,()-]*' code=0
  rm -rf "$root/incoming" && mkdir "$root/incoming" "$fresh" && cd "$fresh" || return 74
  tar -xf - --no-same-owner --no-same-permissions 2>../said || code=$? && head -c 2000 ../said >&2
  odd=$(! grep Removing ../said && chmod -R u+rwX . && find . -regextype posix-extended -mindepth 1 ! \( \( -type d -o \
    -type f -links 1 \) -regex "./[0-9a-f]{20}-[0-9a-f]{64}(/manifest|/files(/$name)*)?" \) -print -quit) || odd=.
  [ -n "$odd" ] || cp -al --remove-destination . "$root/staging" || code=74
  rm -rf "$root/incoming"
  [ -z "$odd" ] || refuse "a tar with more in it than files of inputs"
  return $code
}
