#!/usr/bin/env bash
# Lets the GCC of this machine link for glibc 2.28, as in the image manylinux_2_28, whatever glibc is here: the libraries
# of that glibc as stubs, from ziglang, which knows the symbols of every version; libstdc++ inside, as the image's GCC has
# what is newer than its system's; and manylinux.c. Objects are compiled as ever.
# Usage: LDFLAGS=$(tools/manylinux.sh PYTHON FOLDER), where PYTHON has ziglang; FOLDER keeps what is linked.
set -euo pipefail
here=$(dirname "$0")
python=$1
folder=$2
mkdir -p "$folder"
gcc -O2 -fPIC -fvisibility=hidden -c "$here/manylinux.c" -o "$folder/manylinux.o"
echo 'void nothing(void) {}' >"$folder/nothing.c"
ZIG_GLOBAL_CACHE_DIR=$folder/zig ZIG_LOCAL_CACHE_DIR=$folder/zig "$python" -m ziglang build-lib -dynamic -lc \
  -fno-compiler-rt -target "$(uname -m)-linux-gnu.2.28" "$folder/nothing.c" -femit-bin="$folder/nothing.so"
stubs=$(dirname "$(find "$folder/zig" -name libc.so.6)")
cp "$stubs"/lib*.so.* "$folder"
ln -sf libm.so.6 "$folder/libm.so"
# What one library is today, and the loader (libld), were several then.
echo "GROUP(libc.so.6 AS_NEEDED(libpthread.so.0 libdl.so.2 librt.so.1 libld.so.2))" >"$folder/libc.so"
echo "-L$folder -static-libstdc++ -Wl,--exclude-libs,libstdc++.a $folder/manylinux.o"
