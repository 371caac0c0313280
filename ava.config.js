export default {
  extensions: ['ts'],
  files: ['test/**/*.ts', '!test/_*/**'],
  timeout: '2m',
  workerThreads: false,
}
