package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"innertun/tcpinc"
)

var ours = tcpinc.Config{InnerSpace: tcpinc.InnerSpaceAuto}

// summary is what a test compares: findings in the order of the table, and the changes with the hops they are between.
func summary(r *Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "plain=%s eno=%s later=%s tcpcrypt=%s unknown=%s data=%s tfo=%s inner=%s", r.Plain.Finding, r.ENO.Finding.Finding, r.Later.Finding,
		r.Crypt.Finding.Finding, r.Unknown.Finding, r.Data.Finding, r.TFO.Finding.Finding, r.Inner.Finding.Finding)
	if r.Inner.Mark {
		b.WriteString(" mark")
	}
	var changes []string
	for _, c := range r.Hops.Changes {
		changes = append(changes, fmt.Sprintf(" %s:%s@%d-%d", c.Segment, c.What, c.After, c.By))
	}
	slices.Sort(changes)
	return b.String() + strings.Join(changes, "")
}

func TestFindings(t *testing.T) {
	const (
		good   = "plain=open eno=answered later=kept tcpcrypt=completed unknown=ignored data=ignored tfo=none inner=upgraded mark"
		legacy = "plain=open eno=absent later=accepted tcpcrypt= unknown=ignored data=ignored tfo=none inner=ignored"
	)
	for name, c := range map[string]struct {
		setup
		want string
	}{
		"clean":              {setup{server: ours}, good},
		"clean, IPv6":        {setup{server: ours, ipv6: true}, good},
		"no Inner Space":     {setup{}, "plain=open eno=answered later=kept tcpcrypt=completed unknown=ignored data=ignored tfo=none inner=ignored"},
		"legacy":             {setup{policy: tcpinc.Off}, legacy},
		"closed":             {setup{closed: true}, "plain=closed eno= later= tcpcrypt= unknown= data= tfo= inner="},
		"vacuous":            {setup{server: tcpinc.Config{Vacuous: true}}, strings.Replace(legacy, "absent", "vacuous", 1)},
		"strip":              {setup{server: ours, path: []string{"strip-options"}}, ""},
		"strip, removing":    {setup{server: ours, path: []string{"strip-options:how=remove"}}, ""},
		"strip from SYN":     {setup{server: ours, path: []string{"strip-options:kinds=69,from=syn"}}, ""},
		"strip from non-SYN": {setup{server: ours, path: []string{"strip-options:kinds=69,from=non-syn"}}, ""},
		"echo":               {setup{policy: tcpinc.Off, path: []string{"echo-options"}}, ""},
		"corrupt":            {setup{server: ours, path: []string{"corrupt-option:kinds=69,from=syn"}}, ""},
		"drop SYN data":      {setup{server: ours, path: []string{"block-syn-data"}}, ""},
		"reset SYN data":     {setup{server: ours, path: []string{"block-syn-data:answer=reset"}}, ""},
		"strip SYN data":     {setup{server: ours, path: []string{"strip-syn-data"}}, ""},
		"NAT":                {setup{server: ours, path: []string{"nat"}}, ""},
		"splice":             {setup{server: ours, path: []string{"splice"}}, ""},
		"firewall resets":    {setup{server: ours, path: []string{"block-syn-options:kinds=69,answer=reset"}}, ""},
		"firewall prohibits": {setup{server: ours, path: []string{"block-syn-options:kinds=69,answer=prohibit"}}, ""},
		"firewall drops":     {setup{server: ours, path: []string{"block-syn-options:kinds=69"}}, ""},
		"stateful firewall":  {setup{server: ours, path: []string{"firewall:strict=true"}}, ""},
		"clamp MSS":          {setup{server: ours, path: []string{"clamp-mss:to=1220"}}, ""},
		"re-sequence":        {setup{server: ours, path: []string{"rewrite-sequence"}}, ""},
		"re-sequence, IPv6":  {setup{server: ours, ipv6: true, path: []string{"rewrite-sequence"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.setup)
			r := w.probe(t.Context())
			if got := summary(r); got != c.want {
				j, _ := json.Marshal(r)
				t.Errorf("got  %s\nwant %s\n%s", got, c.want, j)
			}
		})
	}
}

var _ = context.Background
var _ = time.Second
