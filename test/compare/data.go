// Package compare asks a cluster and a single node of the plain engine the
// same statements about the same data: the answers must be equal.
package compare

import (
	"fmt"
	"strings"
	"time"
)

// start is the first instant of the data: a Monday, so that weeks and shard groups begin together.
var start = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Data is what both sides hold, in line protocol: three weeks and so three
// shard groups. No two points that a statement could mix have the same time,
// because the engine does not order those.
func Data() []string {
	var batches []string
	var b strings.Builder
	at := func(week int, n int) int64 {
		return start.AddDate(0, 0, 7*week).Add(time.Duration(n) * time.Minute).UnixNano()
	}
	flush := func() {
		batches = append(batches, b.String())
		b.Reset()
	}

	// cpu: four types, two tags, 12 series, some of which begin in the second week.
	for week := range 3 {
		for i := range 40 {
			for h := range 12 {
				if h >= 9 && week == 0 {
					continue
				}
				n := i*12 + h
				fmt.Fprintf(&b, "cpu,host=h%02d,region=%s usage=%d.%d,count=%di,up=%t,state=\"s%d\" %d\n",
					h, []string{"eu", "us", `ap\ east`}[h%3], (i*7+h*13)%100, 25*(i%4), i*1000+h, (i+h)%3 != 0, (i*h)%5, at(week, n))
			}
		}
		flush()
	}
	// mem: integers beyond 2^53, extremes, and fields that only some points have.
	for week := range 3 {
		for i := range 30 {
			n := 1000 + i*2
			fmt.Fprintf(&b, "mem,host=h%02d total=%di,free=%di %d\n",
				i%5, int64(9007199254740993)+int64(i), int64(i)*1e15+7, at(week, n))
			if i%3 == 0 {
				fmt.Fprintf(&b, "mem,host=h%02d swap=%d.5 %d\n", i%5, i, at(week, n+1))
			}
		}
		flush()
	}
	fmt.Fprintf(&b, "extreme,kind=max i=9223372036854775807i,f=1.7976931348623157e308 %d\n", at(0, 2000))
	fmt.Fprintf(&b, "extreme,kind=min i=-9223372036854775808i,f=-1.7976931348623157e308 %d\n", at(0, 2001))
	fmt.Fprintf(&b, "extreme,kind=tiny i=0i,f=5e-324 %d\n", at(1, 2002))
	fmt.Fprintf(&b, "extreme,kind=third i=1i,f=0.3333333333333333 %d\n", at(2, 2003))
	// Names and values that need escapes, of measurements, tags, fields and strings.
	fmt.Fprintf(&b,
		"odd\\ name\\,\\=,tag\\ key\\,\\==v\\ 1\\,\\=2 field\\ key\\,\\==1,s=\"a \\\"quoted\\\" \\\\ back\" %d\n",
		at(0, 2100))
	fmt.Fprintf(&b, "odd\\ name\\,\\=,tag\\ key\\,\\==v field\\ key\\,\\==2,s=\"two\nlines\" %d\n", at(1, 2101))
	fmt.Fprintf(&b, "odd\\ name\\,\\=,tag\\ key\\,\\==v! field\\ key\\,\\==3,s=\"it's\" %d\n", at(1, 2102))
	fmt.Fprintf(&b, "größe,stadt=Zürich,straße=Bahnhofstraße wert=1i,名=\"日本語 ☃\" %d\n", at(0, 2200))
	fmt.Fprintf(&b, "größe,stadt=København wert=2i,名=\"\" %d\n", at(1, 2201))
	fmt.Fprintf(&b, "größe,stadt=Αθήνα wert=3i %d\n", at(2, 2202))
	fmt.Fprintf(&b, "series,a=x v=1 %d\nseries,a=x,b=y v=2 %d\nseries,a=x\\ z v=3 %d\nseries,a=x!,b=y v=4 %d\nseries "+
		"v=5 %d\n",
		at(0, 2300), at(0, 2301), at(1, 2302), at(1, 2303), at(2, 2304))
	flush()
	// flags: booleans and strings only. gaps: hours without points. once: a single point.
	for i := range 60 {
		fmt.Fprintf(&b, "flags,id=%d on=%t,note=\"n%d\" %d\n", i%4, i%7 < 3, i%9, at(i%3, 3000+i))
		if i%10 < 4 {
			fmt.Fprintf(&b, "gaps,s=%c v=%d,w=%di %d\n", 'a'+i%2, i, i*i, at(0, 4000+i*30))
		}
	}
	fmt.Fprintf(&b, "once v=42i %d\n", at(1, 5000))
	// tie: points of the same time, for statements that keep their series apart.
	for week := range 3 {
		for s := range 6 {
			fmt.Fprintf(&b, "tie,s=%d v=%d %d\n", s, s*10+week, at(week, 6000))
		}
	}
	flush()
	return batches
}
