#!/bin/bash
# Installs the units as docs/install.md says and looks whether they do their work. One line for
# each expectation, "ok" or "FAIL", and what the units said where one fails.
units="ebpf-evict ebpf-evict-disk ebpf-evict-export"
config=/etc/ebpf-evict/config.yaml

expect() { # what, command...
	local what=$1
	shift
	if "$@" >/tmp/said 2>&1; then
		echo "ok $what"
		return
	fi
	echo "FAIL $what"
	tail -n 5 /tmp/said | cut -c1-300
	for u in $units; do journalctl -u "$u" --no-pager -o cat | tail -n 6 | cut -c1-300; done
}

soon() { # seconds, command...: until it is true
	local left=$1
	shift
	until "$@"; do
		((left-- > 0)) || return 1
		sleep 1
	done
}

property() { systemctl show -p "$2" --value "$1"; }
is() { [ "$(property "$1" "$2")" = "$3" ] || { echo "$1: $2 is $(property "$1" "$2")"; return 1; }; }
metrics() {
	exec 3<>/dev/tcp/127.0.0.1/9436 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 && cat <&3
}
serves() { metrics | grep -E "^$1"; }
says() { journalctl -u "$1" --no-pager -o cat | grep -E "$2"; }
silent() { ! says "$@"; }
realtime() { ps -L -o cls= -p "$1" | grep FF; }
killed() { ebpf-evict history --config $config | grep "hog.service.*killed"; }
another() { [ "$(property ebpf-evict MainPID)" != "$1" ] && is ebpf-evict ActiveState active; }
gone() { ! find /sys/fs/bpf/ebpf-evict /sys/fs/cgroup -name '*ebpf-evict*' 2>/dev/null | grep .; }

systemctl set-property --runtime my.slice MemoryMax=300M
for i in 1 2; do systemd-run --quiet --slice=my.slice --unit=idle$i sleep 3600; done

# shellcheck disable=SC2086 # words
expect "they start" systemctl enable --now $units
expect "the agent is well" soon 60 ebpf-evict health --config $config
expect "the disk process is well" soon 60 ebpf-evict health --disk --config $config
expect "metrics are served, and the agent is up" soon 60 serves 'ebpf_evict_up 1'
for u in $units; do
	expect "$u is active" is "$u" ActiveState active
	expect "$u did not start anew" is "$u" NRestarts 0
done
pid=$(property ebpf-evict MainPID)
expect "oom_score_adj is -999" grep -qx -- -999 "/proc/$pid/oom_score_adj"
expect "a thread is real-time" realtime "$pid"
expect "a tier of BPF watches memory" serves 'ebpf_evict_tier.*allocatableMemory.*bpf'
expect "nothing is degraded" silent ebpf-evict degraded
says ebpf-evict 'degraded|"level":"(warn|error)"' | cut -c1-300

systemd-run --quiet --slice=my.slice --unit=hog tail /dev/zero # a line that does not end
expect "a hog is killed" soon 60 killed
expect "its neighbours are not" systemctl is-active idle1 idle2

mkdir -m 0750 /var/lib/kubelet
printf 'apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nevictionHard: {memory.available: 100Mi}\n' >/var/lib/kubelet/config.yaml
echo 'kubeletConfig: /var/lib/kubelet/config.yaml' >>$config
systemctl restart ebpf-evict-export
expect "the exporter does without the kubelet's file" soon 30 serves 'ebpf_evict_up 1'

kill -STOP "$pid"
expect "the watchdog starts a stopped agent anew" soon 60 another "$pid"
expect "it is well again" soon 30 ebpf-evict health --config $config

# shellcheck disable=SC2086 # words
expect "they stop" systemctl disable --now $units
for u in $units; do expect "$u is inactive" is "$u" ActiveState inactive; done
expect "no pin and no cgroup is left" gone
echo "scene: done"
systemctl poweroff -f
