#!/bin/sh
# mqi-job ROOT KEY ATTEMPT: the wrapper that the queue runs: one claim, one run, one result. POSIX sh, coreutils, util-linux.
# fd 9 is the case's lock, fd 8 the slot's: the computation inherits both, so that whoever is left of it shows as alive.
umask 077
LC_ALL=C PATH=/usr/local/bin:/usr/bin:/bin
export PATH
root=$1 key=$2 number=$3 case=$1/cases/$2
cd "$case/attempt-$number" && read -r digest group slots limit devices <job && exec 9<"$case/lock" || exit 75
taken() { [ -e claim ] || [ -L claim ]; }
now() { date -u +%Y-%m-%dT%H:%M:%SZ; }
clock() { read -r up _ </proc/uptime && drift=$(($(date +%s) - ${up%.*})); }
keep() { sync "$1.new" && mv -T "$1.new" "$1" && sync .; } # NAME: written beside, flushed, renamed

# 1. the case's lock, a slot, the claim; who runs here since when
flock -w 30 9 && ! taken || exit 75
slot=${PUEUE_WORKER_ID:-$$} tries=0
while [ "$slots" -gt 0 ]; do # first each slot in turn, then in steps of 5 s
  slot=$((slot % slots))
  exec 8>"$root/slots/$group-$slot"
  flock -w $((tries < slots ? 0 : 5)) 8 && break
  { [ $? -eq 1 ] && ! taken; } || exit 75 # 1: somebody holds it
  slot=$((slot + 1)) tries=$((tries + 1))
done
mkdir claim 2>/dev/null || exit 75
since=$(now) wrapper=${0%/*}
clock # how far the wall's clock is ahead of the uptime
ahead=$drift
read -r stat </proc/$$/stat && read -r boot </proc/sys/kernel/random/boot_id
# shellcheck disable=SC2086 # fields, counted behind the name: 3 the process group, 20 the start in ticks
set -- ${stat##*) }
ticks=${20}
[ "$3" = $$ ] || ticks=-
echo "mqi1:$key:$number $3 $ticks $boot ${up%.*} group=$group slot=$slot since=$since host=$(uname -n) pid=$$ wrapper=${wrapper##*/}" >status.new && keep status || exit 74

# 2. how it ends, whoever ends it: the first one's reason stands
unlisted=disk-full-or-output-unreadable
result() { # EXIT FAULT
  manifest=$(sha256sum 2>/dev/null <output.sha256) || set -- "" "${2:-$unlisted}"
  echo "mqi1:$key:$number exit=$1 signal=$termed fault=$2 manifest=${manifest%% *} clock=${jumped:-0} since=$since until=$(now)" >result.new && keep result
}
# shellcheck disable=SC2317 # the trap calls it
overrun() { # the killer is one of the group, so that the group's number is still its own when KILL comes
  printf 'time limit\n' >"ending.$$" && sync "ending.$$" && ln -T "ending.$$" ending
  rm -f "ending.$$"
  kill -TERM 0
  (trap '' TERM && exec 8>&- 9>&- && sleep 10 && kill -KILL 0) &
}
termed=''
trap 'termed=TERM' TERM
trap overrun USR1

# 3. the input once more, byte for byte, nothing added
mkdir output && sort "$case/input-$digest.sha256" >expected || exit 74
wrong=$( (cd "$case/input-$digest" && find . ! -type d -print0 | xargs -0 -r sha256sum) | sed 's|  \./|  |' | sort |
  comm -3 - expected) || wrong="it could not be compared" # a folder that is not there has no sums, and then all of them are wrong
sums=$(sha256sum <"$case/input-$digest.sha256") && rm -f expected
if [ -n "$wrong" ] || [ "$sums" != "$digest  -" ]; then
  printf 'mqi: the input is not what was published:\n%s\n' "$wrong" >job.log
  result '' input-damaged
  exit 65
fi

# 4. the job, in this task's process group
export MQI_CASE="$key" MQI_INPUT="$case/input-$digest" MQI_OUTPUT="$case/attempt-$number/output" \
  MQI_ATTEMPT="$number" MQI_GROUP="$group" MQI_SLOT="$slot"
if [ "$devices" != - ]; then # one entry a slot
  # shellcheck disable=SC2086
  set -- $devices
  [ "$slot" -ge $# ] || shift "$slot"
  export CUDA_VISIBLE_DEVICES="$1"
fi
[ ! -f version-command ] || timeout 60 /bin/sh ./version-command >version 2>&1 </dev/null
: >made
tries=0 # file times are coarse: the job begins when a new file is newer than this one
until [ $tries -gt 100 ] || { touch next && [ -n "$(find next -newer made)" ]; }; do tries=$((tries + 1)) && sleep 0.01; done
rm -f next
(trap - TERM USR1 && cd output && exec /bin/sh ../command) </dev/null >job.log 2>&1 &
job=$!
{
  exec 8>&- 9>&-
  timeout "$limit" tail --pid=$$ -f /dev/null # outside the group, and it ends with this shell, whoever kills it
  [ $? -ne 124 ] || kill -USR1 $$
} </dev/null >/dev/null 2>&1 &
watch=$!
while wait $job; code=$?; kill -0 $job 2>/dev/null; do :; done # a signal to this shell ends wait, not the job
kill $watch 2>/dev/null

# 5. what came out, then the result: without a list of all that came out there is none. What is not newer than the job's start
# was not written by this attempt: it gets a sum of zeros, unless the clock was set meanwhile, so that ages say nothing
clock
jumped=$((drift - ahead))
if [ $jumped -ge -2 ] && [ $jumped -le 2 ]; then jumped=0; else touch -d @0 made; fi
sums() { find . -type f "$@" -newer ../made -print0 >../found && sort -z -o ../found ../found && xargs -0 -r sha256sum <../found; }
if (cd output && sums && sums ! >../old) >output.sha256.new &&
  sed "s/^\(\\\\\{0,1\}\)[0-9a-f]*/\1$(printf %064d 0)/" old >>output.sha256.new && rm -f found old && keep output.sha256 && sync -f output; then result "$code" ''; else result '' "$unlisted"; fi
[ -z "$termed" ] || exit 143
exit "$code"
