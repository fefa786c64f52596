#!/bin/sh
# Installs Debian packages ("$@") without starting or enabling a service, and leaves no trace of how that was done, also
# when it fails or is interrupted. Run by `cargo xtask setup`, as root.
set -eu
policy=/usr/sbin/policy-rc.d
kept=$policy.kept-by-xtask
mark='# put here by xtask setup while it installs'
before=$(mktemp)
after=$(mktemp)

# What is started at boot, one link a line.
enabled() {
    {
        find /etc/systemd/system -path '*.wants/*.service' || true
        find /etc/rc2.d /etc/rc3.d /etc/rc4.d /etc/rc5.d -name 'S*' || true
    } 2>/dev/null | sort
}

restore() {
    # Debian enables what it installs; we only want the programs. Taking the links away is what `systemctl disable` does.
    enabled > "$after"
    comm -13 "$before" "$after" | while IFS= read -r link; do
        case $link in
            *.service) rm -f "$link" ;;
            *) update-rc.d "$(basename "$link" | sed 's/^S[0-9]*//')" disable || true ;;
        esac
    done
    rm -f "$before" "$after" "$policy"
    [ ! -e "$kept" ] || mv "$kept" "$policy"
}

enabled > "$before"
# A file with our mark was left by a run that was killed: it is nobody's wish.
if [ -e "$policy" ] && ! grep -qF "$mark" "$policy"; then
    mv "$policy" "$kept"
fi
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# 101: do not start, stop or restart anything (invoke-rc.d(8)).
printf '#!/bin/sh\n%s\nexit 101\n' "$mark" > "$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$@" </dev/null
