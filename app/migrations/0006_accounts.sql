CREATE TABLE users (
    id            uuid PRIMARY KEY,
    -- An address in another case is the same address. Of ASCII letters: what others are one is a matter of opinion.
    email         text NOT NULL UNIQUE CHECK (email = lower(email COLLATE "C")),
    name          text NOT NULL,
    -- Argon2id as a PHC string: its parameters may grow, and old ones stay readable.
    password_hash text NOT NULL,
    role          text NOT NULL DEFAULT 'customer' CHECK (role IN ('customer', 'staff', 'admin')),
    -- Sessions hold the number that they began with: a greater one ends them all, wherever they are kept.
    session_epoch integer NOT NULL DEFAULT 1,
    is_active     boolean NOT NULL DEFAULT true,
    created_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_tokens (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name         text NOT NULL,
    -- SHA-256: what is made of 256 random bits needs no slow hash.
    digest       bytea NOT NULL UNIQUE,
    scopes       text[] NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    last_used_at timestamptz
);

CREATE INDEX api_tokens_by_user ON api_tokens (user_id);

-- Who was logged in owns the order; a guest has its id alone.
ALTER TABLE orders ADD COLUMN user_id uuid REFERENCES users (id);
