#!/bin/sh
# Gathers what `cgrace diagnose` reads about a node whose kubelet, container engine, runc or crun hangs.
#
#   sh collect.sh > node.txt                as root, for stacks; without root it says less
#   sh collect.sh --signal > node.txt       also asks containerd, dockerd and cri-o for their goroutines by SIGUSR1
#   sh collect.sh 812 > node.txt            also looks at the process 812
#
# It only reads: files below /proc and /sys, systemctl, busctl, versions, and pprof where a daemon serves it. It starts, stops, changes
# and kills nothing, and prints no command lines and no environments. --signal is the one exception, and must be asked for:
# containerd, dockerd and cri-o document SIGUSR1 to write their stacks and to go on. SIGQUIT, which ends a Go program, is never sent.
# It needs a POSIX shell and the usual small tools; curl, busctl, kubectl, ctr and crio are used where they are there.

set -u
LC_ALL=C
export LC_ALL
PATH=${PATH:-/usr/bin}:/usr/sbin:/sbin:/usr/bin:/bin
AGAIN_S=10   # between two dumps of one program: what moved meanwhile does not hang
TASKS_MAX=64 # threads told of one program
LINES_MAX=200000

signal=no
pids=
for word in "$@"; do
    case $word in
    --signal) signal=yes ;;
    --help | -h)
        sed -n '2,12p' "$0" 2>/dev/null
        exit 0
        ;;
    *[!0-9]* | '')
        echo "collect: $word is neither --signal nor a process's number" >&2
        exit 2
        ;;
    *) pids="$pids $word" ;;
    esac
done

have() { command -v "$1" >/dev/null 2>&1; }

# within SECONDS COMMAND...: 124 when it took longer
within() {
    seconds=$1
    shift
    if have timeout; then timeout "$seconds" "$@"; else "$@"; fi
}

section() { printf '=== cgrace: %s ===\n' "$*"; }

# asked WHAT SECONDS COMMAND...: the output, errors too, and a line when no answer came
asked() {
    what=$1
    shift
    within "$@" 2>&1
    case $? in
    124 | 137 | 143) printf 'no answer within %s s: %s\n' "$1" "$what" ;;
    esac
}

version() {
    have "$1" || return 0
    told=$(within 5 "$@" 2>/dev/null | head -n 1)
    [ -z "$told" ] || printf '%s: %s\n' "$1" "$told"
}

named() {
    for status in /proc/[0-9]*/comm; do
        read -r comm 2>/dev/null <"$status" || continue
        [ "$comm" = "$1" ] || continue
        pid=${status#/proc/}
        echo "${pid%/comm}"
    done
}

# ---- threads, from /proc: what a native program waits for

task() {
    printf 'task: %s\n' "${1##*/}"
    grep -E '^(State|SigCgt):' "$1/status" 2>/dev/null
    printf 'wchan: %s\n' "$(cat "$1/wchan" 2>/dev/null)"
    printf 'syscall: %s\n' "$(cat "$1/syscall" 2>/dev/null)"
    sed 's/^/stack: /' "$1/stack" 2>/dev/null
}

process() {
    [ -d "/proc/$2" ] || return 0
    section "process $1 $2"
    grep -E '^(Name|State|PPid|Threads|NSpid|SigCgt|voluntary_ctxt_switches|nonvoluntary_ctxt_switches):' "/proc/$2/status" 2>/dev/null
    cat "/proc/$2/cgroup" 2>/dev/null
    count=0
    for thread in "/proc/$2/task"/[0-9]*; do
        count=$((count + 1))
        [ "$count" -le "$TASKS_MAX" ] || break
        task "$thread"
    done
}

# ---- goroutines, where a daemon serves them: debug=2 has the states that matter

pprof_kubelet() {
    if have curl; then
        within 15 curl -fsk -m 10 'https://127.0.0.1:10250/debug/pprof/goroutine?debug=2' 2>/dev/null && return 0
    fi
    have kubectl || return 1
    node=${NODE_NAME:-$(hostname 2>/dev/null || uname -n)}
    within 20 kubectl get --request-timeout=15s --raw "/api/v1/nodes/$node/proxy/debug/pprof/goroutine?debug=2" 2>/dev/null
}

pprof_socket() {
    have curl && [ -S "$1" ] || return 1
    within 15 curl -fs -m 10 --unix-socket "$1" "http://localhost$2" 2>/dev/null
}

goroutines() {
    case $1 in
    kubelet) pprof_kubelet ;;
    containerd) pprof_socket /run/containerd/debug.sock '/debug/pprof/goroutine?debug=2' ;;
    dockerd) pprof_socket /var/run/docker.sock '/debug/pprof/goroutine?debug=2' ;;
    crio) pprof_socket /var/run/crio/crio.sock '/debug/goroutines' ;;
    *) return 1 ;;
    esac
}

# served NAME PID SUFFIX: a section with the goroutines, if they can be had and are some
served() {
    told=$(goroutines "$1" | head -n "$LINES_MAX")
    case $told in
    goroutine\ [0-9]*)
        section "goroutines $1 $2$3"
        printf '%s\n' "$told"
        ;;
    *) return 1 ;;
    esac
}

# catches PID: whether it has a handler for SIGUSR1 (bit 10 of SigCgt)
catches() {
    mask=$(sed -n 's/^SigCgt:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null)
    low=$(printf '%s' "$mask" | sed 's/.*\(...\)$/\1/')
    [ -n "$low" ] && [ $((0x$low & 0x200)) -ne 0 ]
}

# signalled NAME PID: SIGUSR1, and the file that the daemon documents to write
signalled() {
    case $1 in
    containerd) folder=tmp pattern="containerd.$2.stacks.log" ;;
    dockerd) folder=var/run/docker pattern='goroutine-stacks-*.log' ;;
    crio) folder=tmp pattern='crio-goroutine-stacks-*.log' ;;
    *) return 1 ;;
    esac
    catches "$2" || return 1
    kill -USR1 "$2" 2>/dev/null || return 1
    sleep 3
    # of the last minute only: older dumps lie in the same folder
    newest=$(find "/proc/$2/root/$folder/" -maxdepth 1 -name "$pattern" -mmin -1 2>/dev/null | sort | tail -n 1)
    [ -n "$newest" ] || return 1
    section "goroutines $1 $2"
    head -n "$LINES_MAX" "$newest"
}

hint() {
    case $1 in
    kubelet)
        echo "kubelet $2: no goroutines. With access to the API server:"
        echo "  kubectl get --raw '/api/v1/nodes/NODE/proxy/debug/pprof/goroutine?debug=2'"
        echo "  kill -QUIT $2 writes them to the journal and ends the kubelet; systemd starts it again."
        ;;
    containerd | dockerd | crio) echo "$1 $2: no goroutines. Run this again with --signal: SIGUSR1 makes $1 write them and go on." ;;
    podman | runc) echo "$1 $2: a Go program without pprof. kill -QUIT $2 writes its goroutines to its stderr and ends it." ;;
    crun) echo "crun $2: gdb -p $2 -batch -ex bt, or eu-stack -p $2, names the functions." ;;
    esac
}

# ---- the node

section "collect 1"
section clock
date -u
printf 'uptime %s\n' "$(cut -d ' ' -f 1 /proc/uptime 2>/dev/null)"

section versions
printf 'kernel: %s\n' "$(uname -r) $(uname -m)"
printf 'os: %s\n' "$(sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/os-release 2>/dev/null | head -n 1)"
printf 'init: %s\n' "$(cat /proc/1/comm 2>/dev/null)"
version systemctl --version
for program in runc crun kubelet containerd dockerd crio podman; do version "$program" --version; done

if have systemctl; then
    section jobs
    asked 'systemctl list-jobs' 10 systemctl --no-pager list-jobs
    section failed
    asked 'systemctl list-units' 10 systemctl --no-pager --plain list-units --failed '*.slice' '*.scope'
    section units
    asked 'systemctl show' 20 systemctl --no-pager show -p Id -p ActiveState -p StateChangeTimestampMonotonic '*.slice' '*.scope'
fi
if have busctl; then
    section manager
    asked 'the property Version of systemd' 10 busctl --timeout=5 get-property org.freedesktop.systemd1 \
        /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager Version
    section bus
    printf 'connections: %s\n' "$(within 10 busctl --no-pager list 2>/dev/null | grep -c '^:')"
    within 10 busctl --no-pager status org.freedesktop.systemd1 2>&1 | head -n 40
fi

section cgroups
grep cgroup /proc/mounts 2>/dev/null
printf 'pid 1: %s\n' "$(tr '\n' ' ' </proc/1/cgroup 2>/dev/null)"
cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null

section frozen
freezer=$(sed -n 's/^[^ ]* \([^ ]*\) cgroup .*[ ,]freezer[ ,].*/\1/p' /proc/mounts 2>/dev/null | head -n 1)
if [ -n "$freezer" ]; then
    within 20 find "$freezer" -name freezer.state -exec grep -l -E 'FROZEN|FREEZING' {} + 2>/dev/null | sed 's/^/frozen: /'
fi
unified=$(sed -n 's/^[^ ]* \([^ ]*\) cgroup2 .*/\1/p' /proc/mounts 2>/dev/null | head -n 1)
if [ -n "$unified" ]; then
    within 20 find "$unified" -name cgroup.events -exec grep -l '^frozen 1' {} + 2>/dev/null | sed 's/^/frozen: /'
fi

process init 1
again=
for name in kubelet containerd dockerd crio podman runc crun; do
    for pid in $(named "$name"); do
        process "$name" "$pid"
        if served "$name" "$pid" ''; then
            again="$again $name:$pid"
        elif [ "$signal" = no ] || ! signalled "$name" "$pid"; then
            section hint
            hint "$name" "$pid"
        fi
    done
done
for pid in $pids; do process "$(tr -dc 'a-zA-Z0-9_.-' <"/proc/$pid/comm" 2>/dev/null)" "$pid"; done

if [ -n "$again" ]; then
    sleep "$AGAIN_S"
    for one in $again; do served "${one%%:*}" "${one##*:}" ' again'; done
fi
section end
