// The map: databases and policies down, time across, and a cell for each shard.

import { h, on, own } from '../dom.js'
import { compareIDs, count, rangeText, sorted } from '../format.js'
import { nodeName, store } from '../store.js'
import { empty, statuses } from './parts.js'

const filter = { db: '', node: '', status: '' }
let redraw = () => {}

export const shards = {
  enter(draw, status) {
    redraw = draw
    filter.status = status ?? ''
  },
  render() {
    const all = store.state.shards
    const shown = Object.fromEntries(Object.entries(all).filter(([, s]) =>
      (!filter.db || s.database === filter.db) && (!filter.node || s.owners.includes(filter.node)) &&
      (!filter.status || matches(s, filter.status))))
    const dbs = [...new Set(Object.values(all).map((s) => s.database))].sort()
    const choice = (name, label, options) => h('label', {}, label,
      h('select', { 'data-act': 'filter', 'data-on': 'change', name },
        options.map(([v, t]) => h('option', { value: v, selected: filter[name] === v }, t))))
    const n = Object.keys(shown).length
    return [
      h('h1', {}, 'Shards'),
      h('div', { class: 'row filters' },
        choice('db', 'Database', [['', 'All'], ...dbs.map((d) => [d, d])]),
        choice('node', 'Owner', [['', 'All'], ...sorted(store.state.nodes).map(([id, x]) => [id, x.address])]),
        choice('status', 'Status', [['', 'All'], ...Object.entries(statuses).map(([k, v]) => [k, v.name]),
          ['writing', 'being written'], ['repair', 'being repaired or waiting']]),
        h('span', { class: 'grow' }),
        h('span', { class: 'muted', role: 'status' }, `${count(n)} of ${count(Object.keys(all).length)} shards`)),
      n ? map(shown, 'shards') : empty('No shard is like that. Choose other filters.'),
      legend(),
    ]
  },
}

const matches = (s, status) => status === 'writing' ? s.writing : status === 'repair' ? s.repair : s.status === status

on('filter', (e) => {
  filter[e.name] = e.value
  redraw()
})

// many shards have smaller cells, so that all of them are seen at once.
const many = 300

// kept has the cells of each map: a thousand of them are not made anew with each change.
const kept = new Map()

// map draws the shards of each policy, the oldest first. Shards of one group are above each other.
export function map(shown, name) {
  const policies = new Map()
  for (const [id, s] of Object.entries(shown)) {
    const key = `${s.database}.${s.policy}`
    if (!policies.has(key)) policies.set(key, { database: s.database, policy: s.policy, groups: new Map(), n: 0, bad: 0 })
    const p = policies.get(key)
    if (!p.groups.has(s.start)) p.groups.set(s.start, [])
    p.groups.get(s.start).push(id)
    p.n++
    if (!['equal', 'single', 'unchecked', 'away'].includes(s.status)) p.bad++
  }
  const rows = [...policies].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, p]) => {
    const starts = [...p.groups.keys()].sort((a, b) => Date.parse(a) - Date.parse(b))
    const last = shown[p.groups.get(starts.at(-1))[0]]
    return h('div', { class: 'policy', 'data-key': key },
      h('div', { class: 'name' },
        h('b', {}, p.database), h('span', { class: 'muted' }, `.${p.policy}`),
        h('small', { class: 'muted' }, `${count(p.n)} shard${p.n === 1 ? '' : 's'}`, p.bad ? h('strong', {}, `, ${count(p.bad)} not equal`) : null),
        h('small', { class: 'muted' }, rangeText(starts[0], last.end))),
      cells(`${name}/${key}`, key, shown, starts, p.groups))
  })
  return h('div', { class: `map${Object.keys(shown).length > many ? ' dense' : ''}`, 'data-map': name }, rows)
}

// cells returns the cells of a policy: those of the last time where the shards are the same.
function cells(key, label, shown, starts, groups) {
  const signature = starts.map((t) => groups.get(t).sort(compareIDs).join(',')).join(';')
  let k = kept.get(key)
  if (!k || k.signature !== signature) {
    k = { signature, buttons: new Map(), box: h('div', { class: 'cells', role: 'group', 'aria-label': `Shards of ${label}`, 'data-own': true, 'data-key': `${key}:${signature.length}:${hash(signature)}` }) }
    kept.set(key, k)
    let tick = ''
    const span = Date.parse(shown[groups.get(starts[0])[0]].end) - Date.parse(starts[0])
    for (const t of starts) {
      const name = tickName(t, span)
      if (name !== tick) k.box.append(h('span', { class: 'tick', 'aria-hidden': 'true' }, tick = name))
      const group = h('div', { class: 'group' })
      for (const id of groups.get(t)) {
        const b = h('button', { class: 'cell', 'data-act': 'open-shard', 'data-shard': id, tabindex: -1 })
        k.buttons.set(id, { b, shard: null })
        group.append(b)
      }
      k.box.append(group)
    }
    k.box.querySelector('button').tabIndex = 0
  }
  for (const [id, c] of k.buttons) {
    if (c.shard !== shown[id]) paint(id, c, shown[id])
  }
  return own(k.box)
}

function hash(s) {
  let x = 0
  for (let i = 0; i < s.length; i++) x = (Math.imul(x, 31) + s.charCodeAt(i)) | 0
  return x
}

const month = new Intl.DateTimeFormat(undefined, { month: 'short' })

// tickName names the part of the time that a shard begins in: a year, a month or a day.
function tickName(t, span) {
  const d = new Date(t)
  if (span >= 20 * 86400e3) return String(d.getFullYear())
  if (span >= 20 * 3600e3) return month.format(d) + (d.getMonth() === 0 ? ` ${d.getFullYear()}` : '')
  return `${d.getDate()} ${month.format(d)}`
}

function paint(id, c, s) {
  c.shard = s
  const names = [statuses[s.status]?.name ?? s.status]
  if (s.repair) names.push(s.repair === 'running' ? 'being repaired' : 'waits for its repair')
  if (s.writing) names.push('being written')
  c.b.className = `cell s-${s.status}${s.writing ? ' writing' : ''}${s.repair ? ` repair-${s.repair}` : ''}`
  c.b.textContent = statuses[s.status]?.letter ?? '·'
  const text = `Shard ${id}, ${s.database}.${s.policy}, ${rangeText(s.start, s.end)}: ${names.join(', ')}`
  c.b.setAttribute('aria-label', text)
  c.b.title = `${text}\nOwners: ${s.owners.map(nodeName).join(', ')}${s.message ? `\n${s.message}` : ''}`
}

on('open-shard', (b) => { location.hash = `#/shard/${b.dataset.shard}` })

// The arrows go from cell to cell: one tab stop for each policy.
document.addEventListener('keydown', (e) => {
  const cell = e.target.closest?.('.cell')
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 'up', ArrowDown: 'down', Home: 'first', End: 'last' }[e.key]
  if (!cell || step === undefined) return
  e.preventDefault()
  const all = [...cell.closest('.map').querySelectorAll('.cell')]
  let to
  if (step === 'first') to = all[0]
  else if (step === 'last') to = all.at(-1)
  else if (typeof step === 'number') to = all[all.indexOf(cell) + step]
  else to = below(all, cell, step === 'down')
  if (!to) return
  cell.tabIndex = -1
  to.tabIndex = 0
  to.focus()
})

// below is the nearest cell in the next line of cells.
function below(all, cell, down) {
  const from = cell.getBoundingClientRect()
  let best = null
  let least = Infinity
  for (const c of all) {
    const r = c.getBoundingClientRect()
    const y = down ? r.top - from.top : from.top - r.top
    if (y < from.height / 2) continue
    const d = y * 10 + Math.abs(r.left - from.left)
    if (d < least) [best, least] = [c, d]
  }
  return best
}

export function legend() {
  const item = (cls, letter, text) => h('li', {}, h('span', { class: `cell sample ${cls}`, 'aria-hidden': 'true' }, letter), text)
  return h('ul', { class: 'legend', 'aria-label': 'Legend' },
    ['equal', 'diff', 'missing', 'conflict', 'corrupt', 'away', 'unchecked', 'single'].map((k) => item(`s-${k}`, statuses[k].letter, statuses[k].name)),
    item('s-equal writing', '=', 'being written'), item('s-diff repair-queued', '≠', 'waits for its repair'), item('s-diff repair-running', '≠', 'being repaired'))
}
