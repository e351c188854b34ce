// Numbers and times for people. Times are in the time zone of the viewer, and in UTC on hover.

import { h } from './dom.js'

const whole = new Intl.NumberFormat('en')
const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']

export const count = (n) => whole.format(Math.round(n ?? 0))

export function short(n) {
  n = n ?? 0
  for (const [limit, unit] of [[1e9, ' G'], [1e6, ' M'], [1e4, ' k']]) {
    if (n >= limit) return trim(n / (limit === 1e4 ? 1e3 : limit)) + unit
  }
  return n >= 100 || Number.isInteger(n) ? count(n) : n < 1 ? String(Number(n.toPrecision(2))) : trim(n)
}

const trim = (n) => String(Number(n.toPrecision(3)))

export function bytes(n) {
  n = n ?? 0
  let i = 0
  while (n >= 1000 && i < units.length - 1) {
    n /= 1000
    i++
  }
  return `${i === 0 ? n : n >= 100 ? n.toFixed(0) : n.toPrecision(3)} ${units[i]}`
}

export const percent = (part) => `${part > 0 && part < 0.1 ? (100 * part).toFixed(1) : Math.floor(100 * part)} %`

// seconds says how long something takes.
export function seconds(s) {
  if (s < 0.001) return `${Math.round(s * 1e6)} µs`
  if (s < 1) return `${trim(s * 1000)} ms`
  if (s < 60) return `${s < 10 ? trim(s) : Math.round(s)} s`
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`
  return `${Math.floor(s / 86400)} d ${Math.round((s % 86400) / 3600)} h`
}

// lasting says for how long something has been so.
export function lasting(t) {
  const s = Math.max(0, (Date.now() - Date.parse(t)) / 1000)
  const text = s < 60 ? `${Math.floor(s / 10) * 10 || 1} s` : s < 3600 ? `${Math.floor(s / 60)} min` : s < 2 * 86400 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} days`
  return h('time', { datetime: t, title: `since ${dayTimeS.format(new Date(t))} (${utc(t)})` }, `for ${text}`)
}

// ago says how long ago something was, roughly.
export function agoText(t, now = Date.now()) {
  const s = Math.max(0, (now - Date.parse(t)) / 1000)
  if (s < 10) return 'just now'
  if (s < 60) return `${Math.floor(s / 10) * 10} s ago`
  if (s < 3600) return `${Math.floor(s / 60)} min ago`
  if (s < 2 * 86400) return `${Math.floor(s / 3600)} h ago`
  return `${Math.floor(s / 86400)} days ago`
}

const utc = (t) => new Date(t).toISOString().replace('T', ' ').replace(/(\.\d+)?Z$/, ' UTC')
const dayTime = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' })
const dayTimeS = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' })
const dayOnly = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' })
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' })

export const ago = (t) => t ? h('time', { datetime: t, title: `${dayTimeS.format(new Date(t))} (${utc(t)})` }, agoText(t)) : 'never'
export const at = (t) => t ? h('time', { datetime: t, title: utc(t) }, dayTime.format(new Date(t))) : '–'
export const atSeconds = (t) => t ? h('time', { datetime: t, title: utc(t) }, isToday(t) ? clock.format(new Date(t)) : dayTimeS.format(new Date(t))) : '–'

function isToday(t) {
  return new Date(t).toDateString() === new Date().toDateString()
}

// range says from when to when, as short as it may be.
export function rangeText(start, end) {
  const days = (Date.parse(end) - Date.parse(start)) / 86400e3
  const f = days >= 1 ? dayOnly : dayTime
  return `${f.format(new Date(start))} – ${f.format(new Date(end))}`
}
export const range = (start, end) =>
  h('span', { title: `${utc(start)} – ${utc(end)}` }, rangeText(start, end))

// compareIDs orders IDs, which are numbers in text.
export const compareIDs = (a, b) => a.length - b.length || (a < b ? -1 : a > b ? 1 : 0)

export const sorted = (object, order) => Object.entries(object ?? {}).sort(order ?? (([a], [b]) => compareIDs(a, b)))
