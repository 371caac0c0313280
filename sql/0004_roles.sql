-- Roles
--
-- The service works as transfer_app: it may read, and call the functions; it has no INSERT, UPDATE, DELETE or TRUNCATE
-- on the ledger. So the database itself keeps the rules, and an injected statement has nothing to take. Grant the role
-- to the login in DATABASE_URL (a superuser or the owner of the database has it already).
--
-- Roles belong to the whole cluster, so another database may have made this one.

DO $$
BEGIN
  CREATE ROLE transfer_app NOLOGIN;
EXCEPTION
  WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

GRANT USAGE ON SCHEMA ledger TO transfer_app;
GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO transfer_app;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA ledger FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  ledger.received(uuid),
  ledger.spent(uuid),
  ledger.balances(uuid[]),
  ledger.balance_at(uuid, timestamptz),
  ledger.close_books(uuid[]),
  ledger.sweep_books(uuid),
  ledger.long_tail(),
  ledger.closings_are_at_home()
TO transfer_app;
