#!/bin/sh
# Builds the TensorRT engine of this bundle. Run it on the board: an engine works only on the kind of GPU and with the
# TensorRT version that built it.
#
#   sh build_engine.sh [options] [-- more arguments for trtexec]
#
#   -o, --output FILE    the engine to write (model.plan beside this script); log, layers and timing cache go beside it
#   --trtexec PATH       trtexec; else $TRTEXEC, /usr/src/tensorrt/bin/trtexec, or the one in $PATH
#   --workspace MIB      memory TensorRT may use while it runs a layer
#   --dla-core N         which DLA core, where the bundle is for the DLA (0)
#   --force              build even where the engine is up to date
#   --dry-run            say what would be run, and run nothing
#   --help               this text
#
# Exit codes: 0 the engine is there; 1 trtexec failed; 2 wrong usage; 3 no trtexec, or nothing says its version; 4 this
# TensorRT or board does not take this bundle; 5 a file of the bundle is missing or was changed; 6 cannot write;
# 130, 143 interrupted: an engine that was there before is still there.

set -u

# ---- what this bundle is; written by edgec ----------------------------------------------------------------------------
bundle_model='@model@'
bundle_files='@files@'
bundle_target='@target@'
bundle_board='@board@'
bundle_jetpack='@jetpack@'
bundle_tensorrt='@tensorrt@'
bundle_precision='@precision@'
bundle_form='@form@'
# TensorRT versions as numbers: 10.3.0 is 100300. From the first up to, but without, the second.
bundle_from='@from@'
bundle_until='@until@'
# What to recompile with for other versions: "first until jetpack", one a line.
bundle_others='@others@'
bundle_type_flags='@type_flags@'
bundle_min='@min_shapes@'
bundle_opt='@opt_shapes@'
bundle_max='@max_shapes@'
bundle_workspace='@workspace@'
bundle_sparse='@sparse@'
bundle_dla='@dla@'
bundle_dla_fallback='@dla_fallback@'
bundle_dla_pools='@dla_pools@'
bundle_dla_arguments='@dla_arguments@'
bundle_calibration='@calibration@'
# ------------------------------------------------------------------------------------------------------------------------

say() { printf '%s\n' "$*"; }
hint() { printf '  hint: %s\n' "$*" >&2; }
fail() { # code, message
    printf 'error: %s\n' "$2" >&2
    [ -z "${3-}" ] || hint "$3"
    exit "$1"
}

help_text() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# 10.3.0.30-1+cuda12.5 -> 100300; nothing for what does not begin with a version.
number_of() {
    printf '%s\n' "$1" | sed -n 's/^\([0-9]\{1,3\}\)\.\([0-9]\{1,2\}\)\.\([0-9]\{1,2\}\).*$/\1 \2 \3/p; t
s/^\([0-9]\{1,3\}\)\.\([0-9]\{1,2\}\).*$/\1 \2 0/p' | {
        IFS=' ' read -r major minor patch && say "$((major * 10000 + minor * 100 + patch))"
    }
}

text_of() { say "$(($1 / 10000)).$(($1 / 100 % 100)).$(($1 % 100))"; }

absolute() { # a file's path with its folder resolved; the folder must be there
    folder=$(CDPATH='' cd -- "$(dirname -- "$1")" 2>/dev/null && pwd) || return 1
    printf '%s/%s\n' "${folder%/}" "$(basename -- "$1")"
}

quoted() { # arguments as a shell would take them
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./:=,+@%-]* | '') printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
}

find_trtexec() {
    for candidate in "$trtexec" "${TRTEXEC-}"; do
        if [ -n "$candidate" ]; then
            # a name is looked for in $PATH, a path is taken as it is
            command -v -- "$candidate" 2>/dev/null || fail 3 "there is no program $candidate" \
                'give the path of trtexec with --trtexec, or unset TRTEXEC'
            return
        fi
    done
    for candidate in /usr/src/tensorrt/bin/trtexec trtexec; do
        if command -v -- "$candidate" 2>/dev/null; then
            return
        fi
    done
    fail 3 'trtexec is not installed: there is no /usr/src/tensorrt/bin/trtexec, and none in PATH' \
        'on JetPack: sudo apt-get install libnvinfer-bin; elsewhere give its path with --trtexec'
}

# The version trtexec was made for, from the line it begins with: [TensorRT v8502], [TensorRT v100300], [TensorRT v110401].
version_by_banner() {
    v=$(printf '%s\n' "$1" | sed -n 's/^.*\[TensorRT v\([0-9]\{4,7\}\)\].*$/\1/p' | head -n 1)
    [ -n "$v" ] || return 1
    major=$((v / 10000)) minor=$((v / 100 % 100)) patch=$((v % 100))
    if [ "$v" -lt 10000 ]; then # up to 9.x: one digit, one digit, two digits
        major=$((v / 1000)) minor=$((v / 100 % 10))
    fi
    say "$((major * 10000 + minor * 100 + patch))"
}

version_by_package() {
    command -v dpkg-query >/dev/null 2>&1 || return 1
    for package in libnvinfer-bin libnvinfer11 libnvinfer10 libnvinfer8; do
        # shellcheck disable=SC2016  # dpkg-query's own syntax
        v=$(number_of "$(dpkg-query --showformat='${Version}\n' --show "$package" 2>/dev/null)")
        if [ -n "$v" ]; then
            say "$v"
            return
        fi
    done
    return 1
}

version_by_library() {
    folders=$(printf '%s\n' "${LD_LIBRARY_PATH-}" | tr ':' '\n')
    IFS='
' # for this subshell: folders may have spaces
    for folder in $folders /usr/lib/aarch64-linux-gnu /usr/lib/x86_64-linux-gnu "$(dirname -- "$1")/../lib"; do
        for library in "$folder"/libnvinfer.so.*.*.*; do
            v=$(number_of "${library##*/libnvinfer.so.}")
            if [ -e "$library" ] && [ -n "$v" ]; then
                say "$v"
                return
            fi
        done
    done
    return 1
}

check_version() {
    if [ "$version" -ge "$bundle_from" ] && [ "$version" -lt "$bundle_until" ]; then
        return
    fi
    takes="this bundle was made for JetPack $bundle_jetpack (TensorRT $bundle_tensorrt), and takes"
    takes="$takes $(text_of "$bundle_from") up to, but without, $(text_of "$bundle_until")"
    other=$(printf '%s\n' "$bundle_others" | while read -r first until jetpack; do
        if [ -n "$first" ] && [ "$version" -ge "$first" ] && [ "$version" -lt "$until" ]; then
            say "$jetpack"
            break
        fi
    done)
    if [ -n "$other" ]; then
        advice="compile it again with --target $bundle_target --jetpack $other"
    elif [ "$version" -lt "$bundle_from" ]; then
        advice="nothing was made for a TensorRT that old: update JetPack, or use a board with a newer one"
    else
        advice="nothing was tried with a TensorRT that new: a newer edgec may know it"
    fi
    fail 4 "this board has TensorRT $(text_of "$version"); $takes" "$advice"
}

check_board() {
    [ -r /proc/device-tree/model ] || return 0
    board=$(tr -d '\000' </proc/device-tree/model)
    if [ -n "$bundle_dla" ]; then
        case $board in
        *'Orin Nano'* | *Thor*) fail 4 "this bundle is for the DLA, and $board has none" 'compile it again without --dla' ;;
        esac
    fi
    case $board in
    *"$bundle_board"*) ;;
    *) say "note: the bundle was made for $bundle_target; this is $board" ;;
    esac
}

check_files() {
    command -v sha256sum >/dev/null 2>&1 || {
        say 'note: no sha256sum here: the files of the bundle are not checked'
        return
    }
    printf '%s\n' "$bundle_files" | while read -r sum name; do
        [ -r "$here/$name" ] || fail 5 "$name is missing" 'copy the whole folder to the board'
        found=$(sha256sum <"$here/$name") || exit 5
        [ "${found%% *}" = "$sum" ] ||
            fail 5 "$name is not the file this bundle was made with" 'it was changed, or copied in part: copy the folder again'
    done || exit $?
}

# What went wrong, for messages whose cause is known.
explain() {
    grep -E '\[E\]|Unknown option|error while loading' "$log" | tail -n 20 >&2
    if grep -q 'Target GPU SM [0-9]* is not supported' "$log"; then
        hint 'this TensorRT was not made for this board: install the JetPack package, not the one for servers (SBSA)'
    elif grep -q 'Could not infer output types for operation: dequantize' "$log"; then
        hint 'known of TensorRT 10.16.2 on Orin (NVIDIA/TensorRT#4832): compile with --precision fp16, or for another JetPack'
    elif grep -qiE 'out of memory|OutOfMemory|insufficient memory' "$log"; then
        hint 'not enough memory: stop other programs, add swap, or give less with --workspace'
    elif grep -q 'Unknown option' "$log"; then
        hint "trtexec of TensorRT $(text_of "$version") does not know an option: see the command above"
    elif [ "$1" -eq 137 ] || [ "$1" -eq 9 ]; then
        hint 'trtexec was killed, most likely for want of memory: stop other programs, add swap, or give less with --workspace'
    fi
}

clean_up() { rm -f -- "$partial" "$partial.layers"; }

interrupted() { # exit code
    if [ -n "$child" ]; then
        kill -TERM "$child" 2>/dev/null
        wait "$child" 2>/dev/null
    fi
    clean_up
    printf 'interrupted; nothing was changed\n' >&2
    exit "$1"
}

# ---- arguments ---------------------------------------------------------------------------------------------------------
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
output="$here/model.plan"
trtexec='' workspace=$bundle_workspace dla_core=$bundle_dla force='' dry_run=''
while [ $# -gt 0 ]; do
    case $1 in
    -o | --output | --trtexec | --workspace | --dla-core)
        [ $# -ge 2 ] || fail 2 "$1 needs a value" "sh $0 --help"
        case $1 in
        --trtexec) trtexec=$2 ;;
        --workspace) workspace=$2 ;;
        --dla-core) dla_core=$2 ;;
        *) output=$2 ;;
        esac
        shift 2
        ;;
    --force) force=yes && shift ;;
    --dry-run) dry_run=yes && shift ;;
    -h | --help) help_text && exit 0 ;;
    --) shift && break ;;
    *) fail 2 "what is $1?" "sh $0 --help; arguments for trtexec go after --" ;;
    esac
done
case $workspace$dla_core in
*[!0-9]*) fail 2 '--workspace and --dla-core take a whole number' ;;
esac
[ -n "$bundle_dla" ] || [ -z "$dla_core" ] || fail 2 'this bundle is not for the DLA' 'compile it with --dla'
output=$(absolute "$output") || fail 6 "there is no folder $(dirname -- "$output")" 'make it first'
[ ! -d "$output" ] || fail 2 "$output is a folder" 'give the name of a file with --output'

# ---- checks ------------------------------------------------------------------------------------------------------------
check_files
trtexec=$(find_trtexec) || exit $?
banner=$("$trtexec" --help 2>&1)
case $banner in
*'error while loading shared libraries'*)
    fail 3 "trtexec does not start: $(printf '%s\n' "$banner" | grep -m 1 'error while loading')" \
        'its TensorRT is not installed, or not in LD_LIBRARY_PATH'
    ;;
esac
version=$(version_by_banner "$banner" || version_by_package || version_by_library "$trtexec") ||
    fail 3 "nothing says which TensorRT $trtexec is of" 'is it trtexec? --trtexec PATH names another'
check_version
check_board

# ---- the command -------------------------------------------------------------------------------------------------------
name=$(basename -- "$output")
folder=$(dirname -- "$output")
folder=${folder%/}
partial="$folder/.$name.$$.partial"
log="$folder/${name%.*}.build.log"
layers="$folder/${name%.*}.layers.json"
record="$folder/${name%.*}.build.txt"
child=''

pools=''
[ -z "$workspace" ] || pools="workspace:$workspace"
[ -z "$bundle_dla_pools" ] || pools="${pools:+$pools,}$bundle_dla_pools"
if [ "$version" -ge 80600 ]; then only_build=--skipInference; else only_build=--buildOnly; fi

if [ -n "$bundle_dla" ]; then
    for argument in $bundle_dla_arguments; do set -- "$argument" "$@"; done
    [ -z "$bundle_dla_fallback" ] || set -- --allowGPUFallback "$@"
    set -- "--useDLACore=$dla_core" "$@"
fi
# A calibration cache of another TensorRT version is refused: the one that is read gets this version in its first line.
calibration="$folder/${bundle_calibration%.cache}-$(text_of "$version").cache"
[ -z "$bundle_calibration" ] || set -- "--calib=$calibration" "$@"
if [ -n "$bundle_max" ]; then
    set -- "--minShapes=$bundle_min" "--optShapes=$bundle_opt" "--maxShapes=$bundle_max" "$@"
fi
[ -z "$bundle_sparse" ] || set -- --sparsity=enable "$@"
[ -z "$pools" ] || set -- "--memPoolSize=$pools" "$@"
if [ "$bundle_form" = strong ]; then
    [ "$version" -ge 110000 ] || set -- --stronglyTyped "$@" # always on in 11
else
    for flag in $bundle_type_flags; do set -- "$flag" "$@"; done
fi
# A timing cache of another TensorRT version is refused: each has its own.
set -- "--onnx=$here/$bundle_model" "--timingCacheFile=$folder/timing-$(text_of "$version").cache" \
    --profilingVerbosity=detailed --dumpLayerInfo "$only_build" "$@"

key="TensorRT $(text_of "$version"); $(printf '%s\n' "$bundle_files" | tr '\n' ' ');$(quoted "$@")"
if [ -z "$force$dry_run" ] && [ -s "$output" ] && [ -r "$record" ] && grep -qxF -- "key=$key" "$record"; then
    say "$output is up to date (TensorRT $(text_of "$version")); --force builds it again"
    exit 0
fi
set -- "$@" "--saveEngine=$partial" "--exportLayerInfo=$partial.layers"
say "$bundle_model -> $output: $bundle_precision, TensorRT $(text_of "$version")"
say "$(quoted "$trtexec" "$@")"
[ -z "$dry_run" ] || exit 0

(: >"$partial") 2>/dev/null || fail 6 "cannot write to $folder" 'give another place with --output'
if [ -n "$bundle_calibration" ]; then
    tag=$version
    # 8.5.2 calls itself 8502, not 80502
    [ "$version" -ge 100000 ] || tag=$((version / 10000))$(printf '%03d' $((version % 10000)))
    sed "1s/^TRT-[0-9]*-/TRT-$tag-/" "$here/$bundle_calibration" >"$calibration" || fail 6 "cannot write $calibration"
fi
trap 'interrupted 130' INT
trap 'interrupted 143' TERM HUP
for old in "$folder/.$name".*.partial "$folder/.$name".*.partial.layers; do # left by one that was killed
    pid=${old#"$folder/.$name."}
    if [ -e "$old" ] && [ "${pid%%.*}" != $$ ] && ! kill -0 "${pid%%.*}" 2>/dev/null; then
        rm -f -- "$old"
    fi
done

# ---- the build ---------------------------------------------------------------------------------------------------------
say "this takes some minutes; the log is $log"
"$trtexec" "$@" >"$log" 2>&1 &
child=$!
wait "$child"
status=$?
child=''
if [ "$status" -ne 0 ] || [ ! -s "$partial" ]; then
    clean_up
    [ "$status" -ne 0 ] || printf 'error: trtexec says nothing is wrong, but wrote no engine\n' >&2
    [ "$status" -eq 0 ] || printf 'error: trtexec failed (exit code %s); its log is %s\n' "$status" "$log" >&2
    explain "$status"
    exit 1
fi
trap '' INT TERM HUP # from here on it is a matter of milliseconds
rm -f -- "$record"
[ ! -s "$partial.layers" ] || mv -f -- "$partial.layers" "$layers"
mv -f -- "$partial" "$output" || fail 6 "cannot write $output"
clean_up
{
    say "key=$key"
    say "tensorrt=$(text_of "$version")"
    say "trtexec=$trtexec"
    say "built=$(date -u +%Y-%m-%dT%H:%M:%SZ)"
} >"$record"
say "built $output ($(wc -c <"$output" | tr -d ' ') bytes)"
say "check it: python3 verify.py$([ "$output" = "$here/model.plan" ] || quoted --engine "$output")"
