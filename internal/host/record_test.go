package host

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func fullRecord() Record {
	return Record{
		Version: 1, PID: 4711, Namespace: Namespace{Inode: 4026531840, Cookie: 1, Boot: "b"}, Directories: []string{"/run/innertun"},
		Undo: []Entry{
			{Kind: KindPorts, Previous: "", Written: "61000-65535"},
			{Kind: KindRule, Rule: &Rule{Family: IPv6, Priority: 1000, Mark: 1, Mask: 3, Table: 300}},
			{Kind: KindSocket, Name: "/run/innertun/control.sock"},
			{Kind: KindTable, Name: "inet innertun"},
			{Kind: KindTUN, Name: "inner0"},
			{Kind: KindGuard, Name: "inet innertun_guard", Written: "innertun, pid 4711", Guard: &Guard{TUN: "inner0", Mark: 16, Mask: 48}},
		},
	}
}

func TestRecordRoundTrip(t *testing.T) {
	for _, r := range []Record{fullRecord(), {Version: 1, Namespace: Namespace{Inode: 1, Boot: "b"}, Undo: []Entry{}}} {
		b, err := AppendRecord([]byte("x"), r)
		if err != nil || b[0] != 'x' {
			t.Fatal(err)
		}
		back, err := ParseRecord(b[1:])
		if err != nil || !reflect.DeepEqual(r, back) {
			t.Errorf("%+v came back as %+v, %v", r, back, err)
		}
		for n := range len(b) - 2 { // without the line end it is whole
			if _, err := ParseRecord(b[1 : 1+n]); !errors.Is(err, ErrRecord) {
				t.Errorf("the first %d octets: %v", n, err)
			}
		}
	}
}

func TestRecordRefused(t *testing.T) {
	good, err := AppendRecord(nil, fullRecord())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{`"version": 1`, `"version": 2`},
		{`"version": 1`, `"version": 1, "surprise": 1`},
		{`"inode": 4026531840`, `"inode": 0`},
		{`"reserved-ports"`, `"sysctl"`},
		{`61000-65535`, `61000-`},
		{`"ipv6"`, `"ipx"`},
		{`"table": 300`, `"table": 254`},
		{`"table": 300`, `"table": -1`},
		{`"mark": 1`, `"mark": 4`},
		{`"priority": 1000`, `"priority": 0`},
		{`"kind": "rule"`, `"kind": "socket"`},
		{`/run/innertun/control.sock`, `control.sock`},
		{`"/run/innertun"`, `"/run/../etc"`},
		{`"nft-table"`, `"nft-tables"`},
		{`"name": "inner0"`, `"name": ""`},
		{`"tun": "inner0"`, `"tun": ""`},
		{`"mark": 16`, `"mark": 64`},
		{`inet innertun_guard`, `inet filter`},
		{`"innertun, pid 4711"`, `""`},
		{`"kind": "guard"`, `"kind": "tun"`},
	} {
		bad := strings.Replace(string(good), c[0], c[1], 1)
		if bad == string(good) {
			t.Fatalf("%s does not occur", c[0])
		}
		if r, err := ParseRecord([]byte(bad)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s for %s: %+v, %v", c[1], c[0], r, err)
		}
	}
	if _, err := ParseRecord(append(good, '{')); !errors.Is(err, ErrRecord) {
		t.Errorf("something follows: %v", err)
	}
	if _, err := ParseRecord(bytes.Repeat([]byte{' '}, maxRecord+1)); !errors.Is(err, ErrRecord) {
		t.Errorf("too long: %v", err)
	}
}

func FuzzRecord(f *testing.F) {
	good, err := AppendRecord(nil, fullRecord())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRecord(b)
		if err != nil {
			if !errors.Is(err, ErrRecord) || !reflect.DeepEqual(r, Record{}) {
				t.Fatalf("%+v, %v", r, err)
			}
			return
		}
		again, err := AppendRecord(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseRecord(again)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Undo) == 0 {
			r.Undo = back.Undo // none and an empty list are the same
		}
		if len(r.Directories) == 0 {
			r.Directories = back.Directories
		}
		if !reflect.DeepEqual(r, back) {
			t.Fatalf("%+v came back as %+v", r, back)
		}
	})
}
