-- Roles, the application's database, and the provisioner's own rows. Run as superuser in database postgres; says what
-- should be, so it may be run again at any time. Passwords are set beside it and never appear in a file.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['app_owner', 'app', 'replicator', 'monitor', 'ledger'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I', name);
        END IF;
    END LOOP;
END
$$;

ALTER ROLE app_owner  LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE app        LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE replicator LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE   REPLICATION NOBYPASSRLS;
ALTER ROLE monitor    LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
ALTER ROLE ledger     LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
-- Statistics, settings and sizes; no rows.
GRANT pg_monitor TO monitor;

-- A role enters a database only where it was let in.
REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE postgres TO monitor, ledger;

-- What pg_rewind reads a primary's files with (PostgreSQL 17 docs, pg_rewind, notes): a base backup gives the role as much.
GRANT CONNECT ON DATABASE postgres TO replicator;
GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean) TO replicator;
GRANT EXECUTE ON FUNCTION pg_stat_file(text, boolean) TO replicator;
GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO replicator;
GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO replicator;

-- One row a purpose: the marker whose arrival on a replica proves replication.
CREATE SCHEMA IF NOT EXISTS provisioner;
CREATE TABLE IF NOT EXISTS provisioner.marker (
    purpose    text PRIMARY KEY,
    nonce      text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
