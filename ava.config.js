export default {
  extensions: ['ts'],
  files: ['test/*.ts'],
  // Three files at a time: most of a test's time is waiting, and all share the 100 connections of one Postgres.
  concurrency: 3,
  timeout: '2m',
  workerThreads: false,
}
