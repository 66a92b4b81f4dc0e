#!/usr/bin/env bash
# Prints the path of a C compiler for static musl binaries: the one of musl-tools where it is installed, else the same
# package unpacked below target/, so that nothing on the host is changed and no root is needed. Has rustup fetch the
# target that rust-toolchain.toml names where a toolchain was installed without it and installs nothing by itself
# (RUSTUP_AUTO_INSTALL=0).
set -euo pipefail

target=x86_64-unknown-linux-musl
if [[ ! -d $(rustc --print sysroot)/lib/rustlib/$target ]]; then rustup --quiet target add "$target" >&2; fi
if command -v musl-gcc; then exit 0; fi
root=$(cd "$(dirname "$0")/.." && pwd)/target/musl
compiler=$root/musl-gcc
if [[ ! -x $compiler ]]; then
	if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
		printf 'error: no musl-gcc, and no apt-get to fetch it with\nhint: install musl-tools\n' >&2
		exit 1
	fi
	mkdir -p "$root"
	cd "$root"
	apt-get download -qq musl musl-dev musl-tools >&2 || {
		# Without package lists nothing is found; only root may fetch them.
		apt-get update -qq >&2
		apt-get download -qq musl musl-dev musl-tools >&2
	}
	for package in ./*.deb; do dpkg-deb -x "$package" .; done
	specs=usr/lib/x86_64-linux-musl/musl-gcc.specs
	[[ -f $specs ]] || specs=usr/lib/musl/lib/musl-gcc.specs
	sed -i "s|/usr/|$root/usr/|g; s|/lib/ld-musl|$root/lib/ld-musl|g" "$specs"
	printf '#!/bin/sh\nexec gcc "$@" -specs "%s"\n' "$root/$specs" >"$compiler"
	chmod +x "$compiler"
fi
printf '%s\n' "$compiler"
