#!/usr/bin/env bash
# Runs the systemd units of deploy/ as they are shipped, in a VM of Debian 12 with systemd as PID 1:
# test/systemd/scene.sh is its test. Needs root, and mmdebstrap, qemu and mke2fs, which deps.sh
# installs; amd64.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
for need in mmdebstrap qemu-system-x86_64 mke2fs; do
	command -v $need >/dev/null || scripts/deps.sh
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

base=bin/tools/systemd-root.tar
if [ ! -s $base ]; then
	mkdir -p bin/tools
	mmdebstrap --mode=root --variant=minbase --quiet \
		--include=systemd,systemd-sysv,dbus,procps,linux-image-cloud-amd64 \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$scratch/root.tar"
	mv "$scratch/root.tar" $base
fi

root=$scratch/root
mkdir "$root"
tar -xf $base -C "$root" --exclude='./dev/*'
install -m 755 "${EBPF_EVICT_BIN:-bin/ebpf-evict}" "$root/usr/local/bin/ebpf-evict"
install -m 755 test/systemd/scene.sh "$root/scene.sh"
install -D -m 644 test/systemd/config.yaml "$root/etc/ebpf-evict/config.yaml"
cp deploy/systemd/*.service test/systemd/scene.service "$root/etc/systemd/system/"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../scene.service "$root/etc/systemd/system/multi-user.target.wants/scene.service"
echo vm >"$root/etc/hostname"
mke2fs -q -t ext4 -F -d "$root" "$scratch/disk.img" 1200M >/dev/null

# What the scene says is on the second serial line, the kernel's and systemd's words on the first.
timeout --foreground 900 qemu-system-x86_64 -accel tcg -cpu max,-cx16 -smp 1 -m 1536 -nodefaults -display none -nic none -no-reboot \
	-serial file:"$scratch/console" -serial file:"$scratch/said" \
	-drive if=virtio,format=raw,cache=unsafe,file="$scratch/disk.img" \
	-kernel "$root"/boot/vmlinuz-* -initrd "$root"/boot/initrd.img-* \
	-append "root=/dev/vda rw console=ttyS0 quiet mitigations=off panic=-1 psi=1 tsc=reliable no_timer_check random.trust_cpu=on systemd.show_status=0" || true
tr -d '\r' <"$scratch/said"
if ! grep -q '^scene: done' "$scratch/said" || grep -q '^FAIL' "$scratch/said"; then
	tail -n 30 "$scratch/console"
	exit 1
fi
