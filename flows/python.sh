#!/bin/sh
# Run Python for a stage of dvc.yaml: the interpreter of the `dvc` that started it, whose environment need not be
# activated; where that cannot be seen, the clone's .venv, then whatever is on the PATH.
process=$PPID
for _ in 1 2 3; do
    python=$(tr '\0' '\n' < "/proc/$process/cmdline" 2> /dev/null | head -n 1)
    case $python in
        */python*) [ -x "$python" ] && exec "$python" "$@" ;;
    esac
    process=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$process/status" 2> /dev/null)
done
for python in .venv/bin/python python python3; do
    command -v "$python" > /dev/null && exec "$python" "$@"
done
echo "error: no Python found: activate the environment that dvc is installed in" >&2
exit 127
