#!/bin/sh
# The role of `pitr grants postgres`, without a password inside the network of the demo.
set -eu
psql -v ON_ERROR_STOP=1 -U postgres <<'SQL'
CREATE ROLE pitr LOGIN REPLICATION;
GRANT pg_monitor TO pitr;
GRANT EXECUTE ON FUNCTION pg_create_restore_point(text), pg_switch_wal() TO pitr;
CREATE TABLE orders (id int PRIMARY KEY, item text);
INSERT INTO orders SELECT n, 'item ' || n FROM generate_series(1, 1000) n;
SQL
printf 'host replication pitr all trust\nhost postgres pitr all trust\n' >>"$PGDATA/pg_hba.conf"
