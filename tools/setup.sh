# shellcheck shell=sh
# Set-up: finds what a build lacks and installs it with apt. Sourced by scripts beside it, from the
# root of the repository; run alone it does nothing.
#
# Packages have Debian's names. Each is probed by what it is needed for and not by asking dpkg, so
# that another system with the same things on board needs no apt at all.

# What every build takes; lists of words.
# shellcheck disable=SC2034 # for the scripts that source this
libraries='libhwloc-dev libpcre2-dev libjansson-dev liburing-dev libxxhash-dev'
build_needs="build-essential meson ninja-build pkg-config $libraries"

# Whether a header and a library can be used.
can_compile() { # COMPILER LANGUAGE
    echo 'int main(void) { return 0; }' | "$1" -x "$2" - -include stdlib.h -o /dev/null
}

has_package() { # PACKAGE
    case $1 in
    build-essential) can_compile gcc c && can_compile g++ c++ ;;
    clang-14) can_compile clang-14 c && can_compile clang++-14 c++ ;;
    clang-tools-14) command -v scan-build-14 ;;
    libcmocka-dev) pkg-config --exists cmocka ;;
    libhwloc-dev) pkg-config --exists hwloc ;;
    libjansson-dev) pkg-config --exists jansson ;;
    libpcre2-dev) pkg-config --exists libpcre2-8 ;;
    liburing-dev) pkg-config --atleast-version=2.2 liburing ;;
    libxxhash-dev) pkg-config --exists libxxhash ;;
    ninja-build) command -v ninja ;;
    python3-numpy) /usr/bin/python3 -c 'import numpy' || python3 -c 'import numpy' ;;
    *) command -v "$1" ;;
    esac >/dev/null 2>&1
}

list_missing() { # PACKAGE...
    for package; do
        has_package "$package" || printf '%s ' "$package"
    done
}

# Installs what is missing; on a system where that cannot be done, says what it is and exits 1.
need_packages() { # PACKAGE...
    missing=$(list_missing "$@")
    [ -n "$missing" ] || return 0
    as_root=
    if ! command -v apt-get >/dev/null; then
        why='there is no apt-get here'
    elif [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        why='installing them takes root or sudo'
    else
        why=
        [ "$(id -u)" -eq 0 ] || as_root=sudo
    fi
    if [ -n "$why" ]; then
        echo "missing (Debian's names): $missing" >&2
        echo "$why; install them and come back" >&2
        exit 1
    fi
    echo "installing: $missing"
    apt_get="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -q"
    $apt_get update || echo "apt-get update failed; trying with the lists at hand" >&2
    # shellcheck disable=SC2086 # both are lists of words
    $apt_get install -y --no-install-recommends $missing || exit 1
    missing=$(list_missing "$@")
    if [ -n "$missing" ]; then
        echo "still missing after their installation: $missing" >&2
        exit 1
    fi
}

# Sets up build/NAME with these options, or leaves it alone when it has them.
configure() { # NAME MESON-OPTION...
    folder=build/$1
    shift
    options="${CC-} ${CXX-} $*"
    [ "$(cat "$folder/options.txt" 2>/dev/null)" = "$options" ] && return
    rm -rf "$folder"
    mkdir -p build
    if ! meson setup "$folder" "$@" >build/setup.log 2>&1; then
        tail -n 20 build/setup.log
        return 1
    fi
    echo "$options" >"$folder/options.txt"
}
