#!/bin/sh
# Starts a server, and makes its folder the first time. With words it runs `fedrelease` with these instead; `prepare` only makes
# the folder and the invitations.
#
#   FEDRELEASE_ADDRESSES     names and addresses that sites use, with spaces between them; needed the first time
#   FEDRELEASE_NAME          of the federation; else federation
#   FEDRELEASE_PORT          where sites come in; else 9443
#   FEDRELEASE_SITES         sites to invite, with spaces between them; their files go to FEDRELEASE_INVITATIONS
#   FEDRELEASE_EXPERIMENT    a file, or the name of a built-in experiment; else default
#   FEDRELEASE_STORE         folder of releases
#   FEDRELEASE_WHEN_DONE     exit, or wait for a signal when the plan is done; else exit
set -euf

folder=${FEDRELEASE_FOLDER:-/var/lib/fedrelease/server}
invitations=${FEDRELEASE_INVITATIONS:-/invitations}
store=${FEDRELEASE_STORE:-/var/lib/fedrelease/releases}

make_folder() {
    [ ! -e "$folder/server.toml" ] || return 0
    addresses=${FEDRELEASE_ADDRESSES:?names or addresses that sites use, such as fed.example.org}
    set --
    for address in $addresses; do
        set -- "$@" --address "$address"
    done
    fedrelease server init --folder "$folder" --name "${FEDRELEASE_NAME:-federation}" \
        --listen 0.0.0.0 --port "${FEDRELEASE_PORT:-9443}" "$@"
}

# Once for each site: not again when it was admitted, nor while its file lies there.
invite() {
    for site in ${FEDRELEASE_SITES:-}; do
        if [ ! -e "$folder/sites/$site.json" ] && [ ! -e "$invitations/$site.invitation" ]; then
            fedrelease server invite "$site" --folder "$folder" --out "$invitations/$site.invitation"
        fi
    done
}

# In a cluster that starts again whatever ends, a plan that is done must not run for ever; a failure ends the container all the same.
start_and_wait() {
    child= ended=
    trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || :; ended=yes' TERM INT
    "$@" &
    child=$!
    [ -z "$ended" ] || kill -TERM "$child" # the signal came before there was anything to end
    status=0
    wait "$child" || status=$?
    if [ -n "$ended" ]; then # it woke the first wait; the server still ends in order
        status=0
        wait "$child" || status=$?
    fi
    [ "$status" -eq 0 ] || exit "$status"
    [ -n "$ended" ] || echo "the plan is done; waiting for a signal" >&2
    while [ -z "$ended" ]; do
        sleep 1 &
        child=$!
        [ -n "$ended" ] || wait "$child" || :
    done
}

case ${1:-start} in
    start | prepare) ;;
    *) exec fedrelease "$@" ;;
esac
make_folder
invite
[ "${1:-start}" = start ] || exit 0
set -- fedrelease server start "${FEDRELEASE_EXPERIMENT:-default}" --folder "$folder" --store "$store"
case ${FEDRELEASE_WHEN_DONE:-exit} in
    exit) exec "$@" ;;
    wait) start_and_wait "$@" ;;
    *)
        echo "FEDRELEASE_WHEN_DONE is exit or wait, not $FEDRELEASE_WHEN_DONE" >&2
        exit 2
        ;;
esac
