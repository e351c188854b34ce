// The page of the cluster: who is logged in, which view is open, and what is around it.

import { h, morph, on, toast } from './dom.js'
import { agoText } from './format.js'
import { checkSession, login, logout, onChange, store } from './store.js'
import { agreement } from './views/agreement.js'
import { balance } from './views/balance.js'
import { events } from './views/events.js'
import { meta } from './views/meta.js'
import { nodes } from './views/nodes.js'
import { queries } from './views/queries.js'
import { query } from './views/query.js'
import { repairs } from './views/repairs.js'
import { shard } from './views/shard.js'
import { shards } from './views/shards.js'

// views by the first part of the address behind #/. A view has render, and may have enter and leave. The views with
// admin are for administrators.
const views = {
  agreement: { title: 'Agreement', icon: '≡', ...agreement },
  shards: { title: 'Shards', icon: '▦', ...shards },
  shard: { title: 'Shard', hidden: true, under: 'shards', ...shard },
  repairs: { title: 'Repairs', icon: '⟳', admin: true, ...repairs },
  nodes: { title: 'Nodes', icon: '◉', ...nodes },
  queries: { title: 'Queries', icon: '»', admin: true, ...queries },
  meta: { title: 'Meta', icon: '△', admin: true, ...meta },
  balance: { title: 'Balance', icon: '⚖', admin: true, ...balance },
  events: { title: 'Events', icon: '☰', admin: true, ...events },
  query: { title: 'Query', icon: '>', ...query },
}

const root = document.getElementById('app')
let current = { name: '', args: [] }
let planned = false

const may = (v) => !v.admin || store.session?.admin

function place() {
  const [name, ...args] = location.hash.replace(/^#\/?/, '').split('/').map(decodeURIComponent)
  return views[name] && may(views[name]) ? { name, args } : { name: 'agreement', args: [] }
}

// draw brings the page up to date in the next frame.
function draw() {
  if (planned) return
  planned = true
  requestAnimationFrame(() => {
    planned = false
    render()
  })
}

function render() {
  const s = store.session
  if (!s) return show('start', h('div', { class: 'login' }, h('p', { role: 'status' }, 'Asking the node…')))
  if (!s.ready) return show('login', loginForm())
  if (!store.state) return show('wait', h('div', { class: 'login' }, h('p', { role: 'status' }, 'Asking all nodes how they are…')))
  const next = place()
  if (next.name !== current.name || next.args.join('/') !== current.args.join('/')) enter(next)
  document.title = `${store.state.summary.level === 'good' ? '' : '● '}${views[current.name].title} · Concord`
  show('page', page())
}

// show replaces all when the kind of the page changes, and brings it up to date otherwise.
function show(kind, content) {
  if (root.dataset.kind !== kind) {
    root.dataset.kind = kind
    root.replaceChildren(content)
    if (kind === 'login') root.querySelector('input')?.focus()
    return
  }
  morph(root, h('div', {}, content))
}

function enter(next) {
  views[current.name]?.leave?.()
  const first = current.name === ''
  current = next
  const v = views[next.name]
  v.enter?.(draw, ...next.args)
  if (first) return
  window.scrollTo(0, 0)
  requestAnimationFrame(() => document.getElementById('main')?.focus({ preventScroll: true }))
}

function page() {
  const v = views[current.name]
  const sum = store.state.summary
  const shown = v.under ?? current.name
  const link = ([name, view]) => h('a', {
    href: `#/${name}`, 'aria-current': shown === name ? 'page' : null, 'data-key': name,
  }, h('span', { class: 'icon', 'aria-hidden': 'true' }, view.icon), view.title, badge(name))
  return h('div', { class: 'page' },
    h('header', {},
      h('a', { class: 'brand', href: '#/agreement' }, h('img', { src: '/cluster/static/icon.svg', alt: '', width: 26, height: 26 }), 'Concord'),
      h('span', { class: 'where', title: `${sum.kind} node, version ${sum.version}` }, `${sum.kind} node ${sum.node}`),
      h('span', { class: 'grow' }),
      live(),
      h('button', { class: 'plain', 'data-act': 'theme', title: 'Light, dark, or as the system says' }, themeName()),
      store.session.user ? h('span', { class: 'user' }, store.session.user) : null,
      store.session.user ? h('button', { class: 'plain', 'data-act': 'logout', id: 'logout' }, 'Log out') : null),
    h('nav', { 'aria-label': 'Views' }, Object.entries(views).filter(([, x]) => !x.hidden && may(x)).map(link)),
    h('main', { id: 'main', tabindex: -1, 'data-view': current.name, 'data-key': current.name }, v.render(draw, ...current.args)),
    h('footer', {},
      h('a', { href: '/cluster/state', target: '_blank', rel: 'noopener' }, 'State as JSON'),
      sum.kind === 'data' ? h('a', { href: '/metrics', target: '_blank', rel: 'noopener' }, 'Metrics') : null,
      h('span', {}, `Version ${sum.version}`)))
}

function badge(name) {
  const s = store.state
  const n = {
    agreement: Object.keys(s.attention ?? {}).length,
    shards: s.summary.differ + s.summary.missing + s.summary.conflict + s.summary.corrupt,
    repairs: s.summary.repairing + s.summary.queued,
    nodes: Object.values(s.nodes ?? {}).filter((x) => !x.up).length,
    queries: Object.keys(s.queries ?? {}).length,
  }[name]
  return n ? h('span', { class: `badge ${name}` }, String(n)) : null
}

// live says whether what is shown is what is.
function live() {
  const text = store.online ? 'live' : `no connection, shown as it was ${agoText(store.seen)}`
  return h('span', { class: `live ${store.online ? 'on' : 'off'}`, role: 'status', id: 'live' },
    h('span', { class: 'dot', 'aria-hidden': 'true' }), text)
}

function loginForm() {
  return h('form', { class: 'login card', 'data-act': 'login', 'data-on': 'submit', id: 'login' },
    h('img', { src: '/cluster/static/icon.svg', alt: '', width: 48, height: 48 }),
    h('h1', {}, 'Concord'),
    h('label', {}, 'User', h('input', { name: 'username', autocomplete: 'username', required: true })),
    h('label', {}, 'Password', h('input', { name: 'password', type: 'password', autocomplete: 'current-password', required: true })),
    h('p', { class: 'error', role: 'alert', id: 'login-error', 'data-own': true }),
    h('button', { class: 'button primary', type: 'submit' }, 'Log in'))
}

on('login', async (form) => {
  const error = document.getElementById('login-error')
  error.textContent = ''
  try {
    await login(form.username.value, form.password.value)
  } catch (e) {
    error.textContent = e.message
    form.password.select()
  }
})
on('logout', () => { location.hash = '#/agreement'; logout().catch((e) => toast(e.message, 'bad')) })

const themes = ['system', 'light', 'dark']

function themeOf() {
  try {
    return localStorage.getItem('concord-theme') ?? 'system'
  } catch {
    return 'system'
  }
}

const themeName = () => ({ system: '◐ System', light: '☀ Light', dark: '☾ Dark' })[themeOf()]

function setTheme(theme) {
  if (theme === 'system') delete document.documentElement.dataset.theme
  else document.documentElement.dataset.theme = theme
}
on('theme', () => {
  const next = themes[(themes.indexOf(themeOf()) + 1) % themes.length]
  try {
    localStorage.setItem('concord-theme', next)
  } catch {
    // It counts until the page is closed.
  }
  setTheme(next)
  window.dispatchEvent(new Event('theme'))
  draw()
})

setTheme(themeOf())
onChange(draw)
window.addEventListener('hashchange', draw)
setInterval(draw, 5000) // "3 min ago" goes on
render()
checkSession().catch((e) => {
  toast(e.message, 'bad')
  const again = setInterval(() => checkSession().then(() => clearInterval(again)).catch(() => {}), 3000)
})
