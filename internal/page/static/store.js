// The state of the cluster as the node tells it, and requests to that node.

const base = '/cluster'

export const store = {
  session: null, // who is logged in
  state: null, // sections of values by their keys; null before the first answer
  online: false, // the stream is open
  seen: 0, // when the node last said something
}

let changed = () => {}
let stream = null

// onChange sets what is called after each change of the store.
export function onChange(fn) {
  changed = fn
}

export class RequestError extends Error {
  constructor(message, status) {
    super(message)
    this.status = status
  }
}

async function request(path, options) {
  let resp
  try {
    resp = await fetch(base + path, { credentials: 'same-origin', ...options })
  } catch {
    throw new RequestError('The node does not answer. Look whether it runs, and try again.', 0)
  }
  if (resp.status === 204 || resp.status === 202) return null
  const text = await resp.text()
  let body = null
  try {
    body = JSON.parse(text)
  } catch {
    if (resp.ok) throw new RequestError('The node sent an answer that is not JSON. Reload the page.', resp.status)
  }
  if (!resp.ok) {
    if (resp.status === 401 && path !== '/login') await checkSession()
    throw new RequestError(body?.error ?? `The node answered ${resp.status}: ${text.slice(0, 200)}`, resp.status)
  }
  return body
}

export const get = (path, signal) => request(path, { signal })

export const post = (path, body = {}, signal) =>
  request(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body), signal })

// repairCall is a POST of the contract under /shard-repair.
export const repairCall = (call, params = {}) => post(`/shard-repair/${call}?${new URLSearchParams(params)}`)

// checkSession asks who is logged in, and opens or closes the stream.
export async function checkSession() {
  store.session = await get('/session')
  if (store.session.ready) open()
  else close()
  changed()
}

export async function login(username, password) {
  store.session = await post('/login', { username, password })
  open()
  changed()
}

export async function logout() {
  await post('/logout')
  close()
  await checkSession()
}

function close() {
  stream?.close()
  stream = null
  store.state = null
  store.online = false
}

// open opens the stream, which the browser opens again by itself after the node was away.
function open() {
  if (stream) return
  const s = new EventSource(`${base}/events`)
  stream = s
  s.addEventListener('state', (e) => {
    store.state = JSON.parse(e.data)
    heard()
  })
  s.addEventListener('patch', (e) => {
    if (store.state) apply(store.state, JSON.parse(e.data))
    heard()
  })
  s.addEventListener('login', () => checkSession())
  s.addEventListener('error', () => {
    store.online = false
    changed()
    if (s.readyState !== EventSource.CLOSED) return
    // The node refused: the login has ended, or it is stopping.
    stream = null
    setTimeout(() => { if (!stream) checkSession().catch(retry) }, 2000)
  })
}

// retry asks again until the node is back.
function retry() {
  setTimeout(() => { if (!stream) checkSession().catch(retry) }, 2000)
}

function heard() {
  store.online = true
  store.seen = Date.now()
  changed()
}

// apply takes over what changed: a new value replaces the old one, and null removes it.
export function apply(state, patch) {
  for (const [section, values] of Object.entries(patch)) {
    const to = (state[section] ??= {})
    for (const [key, value] of Object.entries(values)) {
      if (value === null) delete to[key]
      else to[key] = value
    }
  }
}

// nodeName is the address of a data node by its ID.
export const nodeName = (id) => store.state?.nodes?.[id]?.address ?? `node ${id}`
