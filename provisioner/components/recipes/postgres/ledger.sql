-- What drills write while something is broken: rows whose fate their writer has noted down. Run as superuser in database
-- postgres; may be run again at any time.

CREATE SCHEMA IF NOT EXISTS ledger AUTHORIZATION ledger;

-- Through the route.
CREATE TABLE IF NOT EXISTS ledger.entries (
    run    bigint  NOT NULL,
    writer integer NOT NULL,
    number bigint  NOT NULL,
    PRIMARY KEY (run, writer, number)
);
ALTER TABLE ledger.entries OWNER TO ledger;

-- On one member directly, past the route.
CREATE TABLE IF NOT EXISTS ledger.members (
    run    bigint  NOT NULL,
    member integer NOT NULL,
    number bigint  NOT NULL,
    PRIMARY KEY (run, member, number)
);
ALTER TABLE ledger.members OWNER TO ledger;

-- A replica refuses its probes twenty times a second, and every one would be a line of the server's log.
ALTER ROLE ledger SET log_min_messages = fatal;
ALTER ROLE ledger SET log_min_error_statement = panic;
ALTER ROLE ledger SET log_min_duration_statement = -1;
