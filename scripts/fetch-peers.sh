#!/usr/bin/env bash
# Unpacks Debian's earlyoom and nohang into bin/peers, without installing them: a package
# would start its service, which then watches and kills on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p bin/peers
cd bin/peers
apt-get download earlyoom nohang
for package in earlyoom_*.deb nohang_*.deb; do
	dpkg-deb -x "$package" .
done
