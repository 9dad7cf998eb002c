package probe

import (
	"fmt"
	"strings"
)

// Table is the result for people.
func (r *Result) Table() string {
	var b strings.Builder
	name := r.Target
	if r.Address != "" && r.Address != r.Target {
		name += " (" + r.Address + ")"
	}
	fmt.Fprintf(&b, "%s", name)
	if r.RTT > 0 {
		fmt.Fprintf(&b, ", %.3g ms", r.RTT)
	}
	if r.Hops.Distance > 0 {
		fmt.Fprintf(&b, ", hop %d", r.Hops.Distance)
	}
	if r.Loss > 0 {
		fmt.Fprintf(&b, ", %.0f%% of plain SYNs lost", r.Loss*100)
	}
	b.WriteString("\n")
	if r.Error != "" {
		fmt.Fprintf(&b, "  not probed to the end: %s\n", r.Error)
	}
	if r.Local != "" {
		rows := r.rows()
		if r.Plain.Finding != wordOpen {
			rows = rows[:1] // the others have all the same reason not to have been asked
		}
		for _, row := range rows {
			row.write(&b)
		}
		r.Hops.write(&b)
	}
	b.WriteString("\n")
	return b.String()
}

// row is one question in the table.
type row struct {
	question, meaning, extra string
	f                        Finding
}

func (r *Result) rows() []row {
	var eno, crypt, cookie, mark string
	if r.ENO.TEP != "" {
		eno = "picks " + r.ENO.TEP
		if len(r.ENO.TEPs) > 0 {
			eno += ", takes " + strings.Join(r.ENO.TEPs, " ")
		}
	}
	if r.Crypt.TEP != "" {
		crypt = fmt.Sprintf("%s, %s, keys after %.3g ms", r.Crypt.TEP, r.Crypt.Cipher, r.Crypt.Handshake)
	}
	if r.TFO.Cookie > 0 {
		cookie = fmt.Sprintf("%d octets", r.TFO.Cookie)
	}
	if r.Inner.Mark {
		mark = "the server's ENO option has the mark"
	}
	return []row{
		{"plain SYN", plainMeaning[r.Plain.Finding], "", r.Plain},
		{"SYN with ENO", enoMeaning[r.ENO.Finding.Finding], eno, r.ENO.Finding},
		{"ENO behind the SYN", laterMeaning[r.Later.Finding], "", r.Later},
		{"tcpcrypt", cryptMeaning[r.Crypt.Finding.Finding], crypt, r.Crypt.Finding},
		{"unknown option", unknownMeaning[r.Unknown.Finding], "", r.Unknown},
		{"data in the SYN", dataMeaning[r.Data.Finding], "", r.Data},
		{"TCP Fast Open", tfoMeaning[r.TFO.Finding.Finding], cookie, r.TFO.Finding},
		{"Inner Space", innerMeaning[r.Inner.Finding.Finding], mark, r.Inner.Finding},
	}
}

var (
	plainMeaning = map[string]string{wordOpen: "the port is open", wordClosed: "the port is closed", wordSilent: "no answer"}
	enoMeaning   = map[string]string{
		wordAnswered: "the server speaks ENO", wordNoCommonTEP: "the server speaks ENO, but no protocol of ours",
		wordVacuous: "the server speaks ENO, with encryption off", wordAbsent: "no ENO in the answer", wordEchoed: "our own option came back: a box copies it",
		wordMalformed: "what came back is malformed",
	}
	laterMeaning = map[string]string{
		wordDropped: "segments with it are dropped", wordReset: "reset by segments with it",
		wordKept: "arrives", wordNotKept: "taken away, or not understood", wordAccepted: "does no harm",
	}
	cryptMeaning = map[string]string{wordCompleted: "encrypted", wordUnconfirmed: "keys exchanged, no frame seen", wordFailed: "no encryption"}
	dataMeaning  = map[string]string{wordTaken: "taken without a cookie", wordIgnored: "not taken"}
	tfoMeaning   = map[string]string{wordCookie: "the server gives a cookie", wordNone: "no cookie", wordEchoed: "our own option came back: a box copies it"}

	unknownMeaning = map[string]string{wordIgnored: "does no harm", wordEchoed: "it came back: a box copies it"}
	innerMeaning   = map[string]string{
		wordUpgraded: "the server speaks it", wordIgnored: "an ordinary answer, data not taken", wordDataTaken: "an ordinary answer, data taken: the application has it",
		wordMalformed: "what came back is malformed",
	}
	anyMeaning = map[string]string{
		wordReset: "reset, where plain SYNs are not", wordDropped: "dropped, where plain SYNs are not", wordICMP: "refused by ICMP",
		wordUnsure: "not clear",
	}
)

func (r row) write(b *strings.Builder) {
	meaning := r.meaning
	switch {
	case meaning != "":
	case r.f.Finding == "":
		meaning = "not asked"
	default:
		meaning = anyMeaning[r.f.Finding]
	}
	var more []string
	for _, s := range []string{r.extra, r.f.Detail} {
		if s != "" {
			more = append(more, s)
		}
	}
	if r.f.Finding != "" && r.f.Confidence < 0.9995 {
		more = append(more, fmt.Sprintf("confidence %.3g", r.f.Confidence))
	}
	count := ""
	if r.f.Sent > 0 {
		count = fmt.Sprintf("%d/%d", r.f.Answered, r.f.Sent)
	}
	line := fmt.Sprintf("  %-19s %-12s %-5s %s", r.question, r.f.Finding, count, meaning)
	if len(more) > 0 {
		line += ": " + strings.Join(more, "; ")
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
}

func (h Hops) write(b *strings.Builder) {
	if len(h.Path) == 0 && h.Distance == 0 {
		fmt.Fprintf(b, "  hops: %s\n", h.Detail)
		return
	}
	for _, hop := range h.Path {
		line := fmt.Sprintf("  hop %-3d *", hop.Hop)
		if hop.Address != "" {
			line = fmt.Sprintf("  hop %-3d %-24s %7.3g ms  quotes %d octets", hop.Hop, hop.Address, hop.RTT, hop.Quoted)
		}
		b.WriteString(line + "\n")
	}
	if h.Distance > 0 {
		fmt.Fprintf(b, "  hop %-3d %s\n", h.Distance, h.Detail)
	} else {
		fmt.Fprintf(b, "  %s\n", h.Detail)
	}
	for _, c := range h.Changes {
		fmt.Fprintf(b, "  CHANGED %s: %s, between %s and %s\n", c.Segment, c.describe(), place(c.After, c.AfterAddress, "this host"), place(c.By, c.ByAddress, ""))
	}
	if len(h.Changes) == 0 && len(h.Path) > 0 {
		b.WriteString("  no router that spoke saw a change\n")
	}
}

func (c Change) describe() string {
	switch {
	case c.What == whatAnswered:
		return "answered with " + c.Seen + " before it got there"
	case c.What == whatLost:
		return "lost"
	}
	return describe(c.Change)
}

func place(hop int, address, none string) string {
	if hop == 0 {
		return none
	}
	return fmt.Sprintf("hop %d (%s)", hop, address)
}
