-- A shorter long tail
--
-- Each credit of a tail costs the door half a microsecond. Of 1,000 accounts under steady load, in batches of 150, a
-- transfer took Postgres 52 us of processor time with a tail of 32, and about 45 with 4, 8, 12 or 16, the closings
-- included. The more often an account's books are closed, the more rows that takes: so not the shortest of them.

CREATE OR REPLACE FUNCTION ledger.long_tail() RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 12';
