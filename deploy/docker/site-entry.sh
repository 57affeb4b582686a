#!/bin/sh
# Starts a site, and becomes it by its invitation the first time. With words it runs `fedrelease` with these instead.
#
#   FEDRELEASE_INVITATION    the file that the operator sent; read once, the first time
#   FEDRELEASE_DATA          the file with the rows; needed the first time
#   FEDRELEASE_TEXT, FEDRELEASE_LABEL    its columns; else text and label
#   FEDRELEASE_FETCH         bases to fetch before it starts, with spaces between them, such as minilm
#   FEDRELEASE_WAIT          seconds to wait for the server the first time; else 600
set -euf

folder=${FEDRELEASE_FOLDER:-/var/lib/fedrelease/site}

[ "$#" -eq 0 ] || exec fedrelease "$@"
if [ ! -e "$folder/site.toml" ]; then
    invitation=${FEDRELEASE_INVITATION:?the file that the operator sent}
    data=${FEDRELEASE_DATA:?the file with the rows}
    fedrelease site init "$invitation" --folder "$folder" --data "$data" --text "${FEDRELEASE_TEXT:-text}" \
        --label "${FEDRELEASE_LABEL:-label}" --wait "${FEDRELEASE_WAIT:-600}"
fi
# shellcheck disable=SC2086  # several names are several words
[ -z "${FEDRELEASE_FETCH:-}" ] || fedrelease fetch $FEDRELEASE_FETCH
exec fedrelease site start --folder "$folder"
