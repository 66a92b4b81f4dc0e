-- What is to be done once in a while, by whichever process finds it due.
CREATE TABLE schedule (
    task   text PRIMARY KEY,
    due_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO schedule (task) VALUES ('clean_up');
