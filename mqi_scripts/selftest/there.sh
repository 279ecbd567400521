#!/bin/sh
# What mqi-check --faults asks of a compute host: sent behind mqi-remote.sh, whose functions it uses.
# shellcheck disable=SC2015,SC2034,SC2044,SC2062,SC2154 # names that program uses or sets; paths of ours, without blanks
selftest() { # NONCE ROOT ENGINE QUEUE CONF VERB...
  nonce=$1 root=$2 engine=$3 queue=$4 conf=$5 slots=0 verb=$6
  shift 6
  settle
  printf 'MQI-BEGIN %s\n' "$nonce"
  "selftest_$verb" "$@"
  printf 'MQI-END %s %s\n' "$nonce" $?
}

selftest_make() { # CLIENT: a root for the test inside that of the site, or beside where that will be
  selftest_clear || return
  [ -d "$site" ] || root=$site.selftest
  said=$(mkdir "$root" 2>&1) && : >"$root/of-mqi-check" || { say note "$said" && return 74; }
  printf '%s\n' "$queue" >"$root/client.real" && printf '%s\n' "$1" >"$root/client" && chmod 700 "$root/client" || return 74
  [ "$engine" != pueue ] || "$root/client" --version >/dev/null 2>&1 ||
    { say note "$root/client cannot be run: is that a file system without programs (noexec)?" && return 78; }
  say root "$root"
  say system "$(uname -srm), $(sed -n 's/^PRETTY_NAME="\(.*\)"$/\1/p' /etc/os-release 2>/dev/null)"
}

selftest_put() { : >"$root/$1"; }

selftest_take() { rm "$root/$1"; }

selftest_tell() { # what was executed, by the jobs' own word; inputs and attempts; who runs; the queue
  sed 's/^/run\t/' "$root/runs" 2>/dev/null
  sed 's/^/two\t/' "$root/two" 2>/dev/null
  find "$root/cases" -mindepth 2 -maxdepth 2 -type d -printf 'have\t%P\n' 2>/dev/null
  say busy "$(busy)"
  ask_queue
}

busy() { printf '%s\n' "$root/bin/" | (set +f && grep -lsF -f - /proc/[0-9]*/cmdline) | wc -l; }

selftest_again() { # KEY ATTEMPT GROUP: the task of that attempt once more, as a person would add it
  wrapper=$(find "$root/bin" -name mqi-job)
  add_task "$@"
}

selftest_clear() { # every root that a test made, and what is in it
  site=$root
  for root in "$site.selftest" "$site/selftest"; do [ ! -f "$root/of-mqi-check" ] || clear_one || return; done
}

clear_one() { # its tasks by label and id, those that wait at once; those that run end by themselves
  : >"$root/go"
  lock_root || return # a session of ours may have outlived its script
  tries=0
  for at in $(find "$root/cases" -mindepth 2 -maxdepth 2 -regex '.*/attempt-[0-9]*' -printf '%P\n' 2>/dev/null); do
    until dropped "${at%%/*}" "${at##*-}" || [ $tries -gt 60 ]; do tries=$((tries + 1)) && sleep 0.5; done
  done
  until [ "$(busy)" = 0 ] || [ $tries -gt 60 ]; do tries=$((tries + 1)) && sleep 0.5; done
  [ $tries -le 60 ] || { say note "jobs or tasks of the test do not end: remove them, then $root" && return 75; }
  chmod -R u+w "$root" && rm -rf "$root" || { say note "$root cannot be removed" && return 74; }
}

dropped() { # KEY ATTEMPT
  [ "$engine" = pueue ] || return 0
  drop_task "$1" "$2"
  find_label "mqi1:$1:$2"
  [ $? -eq 1 ]
}
