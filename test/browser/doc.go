// Package browser drives the page of the cluster in a real browser, headless Chromium, against whole clusters.
//
//	make browser                          all of it
//	make browser SHOTS=/tmp/shots         and keep a picture of each view
//
// Its tests have the build tag browser. They skip, and say why, where there is no Chromium (Debian: apt-get install
// chromium). The audit of accessibility needs npm or what an earlier run fetched with it.
package browser
