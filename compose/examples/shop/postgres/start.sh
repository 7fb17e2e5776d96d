#!/bin/sh
# Starts PostgreSQL; makes the data directory first when there is none.
#
# POSTGRES_PASSWORD  password of the role "shop" (needed at the first start)
# ORIGIN             where this server runs, shown to clients as its cluster_name
# /seed/*.sql        rows to begin with, read in the order of their names
set -eu

# A sample's data need not survive a power cut; without fsync the first start takes a second or two.
options="-c fsync=off -c shared_buffers=16MB -c max_connections=40"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?the first start needs POSTGRES_PASSWORD}"
    # A start that was interrupted half way leaves this behind.
    rm -rf "$PGDATA.new"
    initdb --pgdata="$PGDATA.new" --username=postgres --no-sync --locale=C --encoding=UTF8 \
        --auth-local=trust --auth-host=scram-sha-256 >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA.new/pg_hba.conf"
    # Only on the socket: nobody sees the server before its rows are there.
    pg_ctl --pgdata="$PGDATA.new" --wait --silent --log=/dev/stderr --options="$options -c listen_addresses=" start
    psql --quiet --set=ON_ERROR_STOP=1 --username=postgres --set=password="$POSTGRES_PASSWORD" <<'SQL'
create role shop login password :'password';
create database shop owner shop;
SQL
    for file in /usr/local/share/shop/schema.sql /seed/*.sql; do
        [ -e "$file" ] || continue
        psql --quiet --set=ON_ERROR_STOP=1 --username=shop --dbname=shop --file="$file"
    done
    pg_ctl --pgdata="$PGDATA.new" --wait --silent --mode=fast stop
    mv "$PGDATA.new" "$PGDATA"
fi

# shellcheck disable=SC2086 # several options in one variable
exec postgres -D "$PGDATA" $options -c listen_addresses='*' -c cluster_name="${ORIGIN:-somewhere}"
