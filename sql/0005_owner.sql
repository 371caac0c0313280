-- Owners
--
-- Whoever opened an account owns it: the caller's name, as the API knows it. NULL is nobody's, opened while the API
-- asked nobody who they are. Like everything in the ledger it never changes: the trigger on the table sees to that.
-- The database does not ask who is calling (the API does, see src/api/owner.ts); it only remembers.

ALTER TABLE ledger.account ADD COLUMN owner text;

DROP FUNCTION IF EXISTS ledger.open_account(uuid, numeric, boolean);

-- Opens an account. Answers when it was opened, or NULL if it existed before: that one stays as it is.

CREATE FUNCTION ledger.open_account(
  account uuid, opening numeric DEFAULT NULL, overdraft boolean DEFAULT false, owner text DEFAULT NULL
)
RETURNS timestamptz LANGUAGE sql SECURITY DEFINER
SET search_path = ledger, pg_temp
AS $$
  INSERT INTO account (id, opening, overdraft, owner)
  VALUES (open_account.account, open_account.opening, open_account.overdraft, open_account.owner)
  ON CONFLICT (id) DO NOTHING
  RETURNING created_at;
$$;

REVOKE EXECUTE ON FUNCTION ledger.open_account(uuid, numeric, boolean, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.open_account(uuid, numeric, boolean, text) TO transfer_app;
