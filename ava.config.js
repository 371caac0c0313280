export default {
  extensions: ['ts'],
  files: ['test/*.ts'],
  // Three files at a time: most of a test's time is waiting, and all share the 100 connections of one Postgres.
  concurrency: 3,
  // Without any result from any file: nothing that goes well takes as long on a machine that is busy with other things.
  timeout: '5m',
  workerThreads: false,
}
