#!/bin/sh
# usage: weak_symbols.sh nm object…
# Fails if an object compiled for one instruction set defines a weak symbol: the linker keeps one copy of it for all paths,
# and an AVX-512 copy kills the baseline path with SIGILL.
nm=$1
shift
[ $# -gt 0 ] || { echo "no objects"; exit 1; }
status=0
for object; do
  symbols=$("$nm" -C --defined-only "$object") || exit 1
  [ -n "$symbols" ] || { echo "$object defines nothing"; status=1; }
  if echo "$symbols" | grep -E '^[0-9a-f]+ [WVu] '; then
    echo "^ weak in $object"
    status=1
  fi
done
exit $status
