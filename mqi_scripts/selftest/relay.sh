#!/bin/sh
# mqi-check --faults puts this before ssh, scp and sh of the gateway, by PATH. It runs the real one; where the file `fault` beside
# it names this transfer, or the verb of this session, then once with that fault.
here=${0%/*} name=${0##*/} word=''
PATH=${PATH#"$here:"}
if [ "$name" = cut-ssh ]; then stdbuf -o0 head -c 100000 | ssh "$@" && exit; fi # what scp reaches the host through
[ -f "$here/fault" ] || exec "$name" "$@"
read -r fault want <"$here/fault"
for word; do :; done # the command line for the host: ssh's last word, sh's second
[ "$name" != sh ] || word=$2
case $want:$name:$word in
transfer:scp:* | transfer:*:'exec tar -xf '*) ;;
transfer:*) exec "$name" "$@" ;;
*:'exec /bin/sh -s')
  cat >"$here/said"
  exec <"$here/said"
  grep -q "^set -- .* $want " "$here/said" || exec "$name" "$@"
  ;;
*) exec "$name" "$@" ;;
esac
rm "$here/fault"
case $fault in
cut*)
  if [ "$name" = scp ]; then scp -S "$here/cut-ssh" "$@"; else head -c 100000 | "$name" "$@"; fi
  [ "$fault" != cut ] || exit 1 # else it says that all is well
  ;;
lost) "$name" "$@" >/dev/null && exit 255 ;;
kill-before) kill -s KILL $PPID ;;
kill-after) "$name" "$@" >/dev/null && kill -s KILL $PPID ;;
full) # the host's kernel refuses each byte that is to be written into a file
  for one; do
    shift
    [ "$one" != "$word" ] || one="exec /bin/sh -c 'trap \"\" XFSZ; ulimit -f 0; exec /bin/sh -s'"
    set -- "$@" "$one"
  done
  exec "$name" "$@"
  ;;
esac
