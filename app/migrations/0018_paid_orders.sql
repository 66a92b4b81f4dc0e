-- Beside the status, which tells of the goods: an order is paid before or after it is sent, and one that was cancelled may
-- be paid too late.
ALTER TABLE orders ADD COLUMN paid_at timestamptz;
