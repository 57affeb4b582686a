#!/bin/sh
# Starts a site, and becomes it by its invitation the first time. With words it runs `fedrelease` with these instead.
#
#   FEDRELEASE_INVITATION    the file that the operator sent; read once, the first time
#   FEDRELEASE_DATA          the file with the rows; needed the first time
#   FEDRELEASE_TEXT, FEDRELEASE_LABEL    its columns; else text and label
#   FEDRELEASE_FETCH         built-in bases to fetch from the internet, with spaces between them, such as minilm; without it the
#                            server's own base comes from its release service, by its digest, the first time
#   FEDRELEASE_WAIT          seconds to wait for the server the first time; else 600
#   FEDRELEASE_TRIES         how often to ask for the server's base, three seconds apart; else 100
set -euf

folder=${FEDRELEASE_FOLDER:-/var/lib/fedrelease/site}

# The server knows of a base when its run begins, and that waits for every site to be admitted: also for those after this one.
fetch_from_server() {
    tries=0
    until fedrelease site fetch --folder "$folder" --quiet; do
        tries=$((tries + 1))
        [ "$tries" -lt "${FEDRELEASE_TRIES:-100}" ] || return 1
        sleep 3
    done
}

[ "$#" -eq 0 ] || exec fedrelease "$@"
if [ ! -e "$folder/site.toml" ]; then
    invitation=${FEDRELEASE_INVITATION:?the file that the operator sent}
    data=${FEDRELEASE_DATA:?the file with the rows}
    fedrelease site init "$invitation" --folder "$folder" --data "$data" --text "${FEDRELEASE_TEXT:-text}" \
        --label "${FEDRELEASE_LABEL:-label}" --wait "${FEDRELEASE_WAIT:-600}"
fi
if [ -n "${FEDRELEASE_FETCH:-}" ]; then
    # shellcheck disable=SC2086  # several names are several words
    fedrelease fetch $FEDRELEASE_FETCH
elif [ ! -d "$folder/bases" ]; then
    fetch_from_server
fi
exec fedrelease site start --folder "$folder"
