export default {
  extensions: ['ts'],
  // All but what the tests themselves are built on.
  files: [
    'test/*.ts',
    ...[
      'run',
      'server',
      'harness',
      'books',
      'client',
      'contract',
      'proxy',
      'redis',
      'load',
      'part',
      'tampering',
      'serial',
      'script',
      'chromium',
      'nonsense',
    ].map((name) => `!test/${name}.ts`),
  ],
  // Three files at a time: most of a test's time is waiting, and all share the 100 connections of one Postgres.
  concurrency: 3,
  timeout: '2m',
  workerThreads: false,
}
