package elements

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"innertun/integration/lab"
	"innertun/integration/lab/splice"
)

var (
	segmentWords = map[string]lab.Segments{"syn": lab.SYNs, "non-syn": lab.NonSYNs, "all": lab.All}
	answerWords  = map[string]lab.Answer{"drop": lab.Drop, "reset": lab.Reset, "reset-both": lab.ResetBoth, "prohibit": lab.Prohibited}
	messageWords = map[string]lab.Message{
		"net-unreachable": lab.NetUnreachable, "host-unreachable": lab.HostUnreachable,
		"port-unreachable": lab.PortUnreachable, "prohibited": lab.AdminProhibited,
		"too-big": lab.TooBig, "time-exceeded": lab.TimeExceeded,
	}
	attackWords = map[string]lab.Attack{"on-path": lab.OnPath, "off-path": lab.OffPath, "blind": lab.Blind}
)

const minMTU = 68 // of any link (RFC 791, Section 3.2)

func words[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func kindsParam(byDefault any) Param {
	return Param{"kinds", KindList, byDefault, nil, `TCP option kinds, or "unknown": all that a box of 1996 does not know`}
}

func fromParam() Param {
	return Param{"from", Word, "all", []string{"syn", "non-syn", "all"}, "in which segments; syn: SYN and SYN-ACK"}
}

func answerParam() Param {
	return Param{"answer", Word, "drop", words(answerWords), "what becomes of what is blocked"}
}

func linkKinds() []Kind {
	const group = "link"
	chance := func(d any) Param { return Param{"probability", Probability, d, nil, "for each packet"} }
	return []Kind{
		{"delay", group, "holds packets for a time, with jitter if asked", []Param{
			{"time", Duration, nil, nil, "one way, each way"},
			{"jitter", Duration, "0s", nil, "up to so much more, drawn evenly"},
			{"overtake", Bool, false, nil, "let jitter put packets out of order"},
		}, "delay:time=20ms,jitter=5ms", func(a args, env Env) (lab.Element, error) {
			if a.time("jitter") == 0 {
				return lab.Delay(a.time("time")), nil
			}
			return lab.NewJitter(a.time("time"), a.time("jitter"), a.bool("overtake"), env.Seed), nil
		}},
		{"rate", group, "a bottleneck with a bounded queue, each way", []Param{
			{"bits", Rate, nil, nil, "bits per second of IP packets"},
			{"queue", Size, "64KiB", nil, "room for packets that wait; beyond it they are dropped"},
		}, "rate:bits=20Mbit,queue=32KiB", func(a args, _ Env) (lab.Element, error) {
			if a.int("bits") == 0 {
				return nil, fmt.Errorf("%w: bits = 0 lets nothing through", ErrParam)
			}
			return lab.NewRate(int64(a.int("bits")), a.int("queue")), nil
		}},
		{"loss", group, "drops packets at random", []Param{chance(nil)}, "loss:probability=0.02",
			func(a args, env Env) (lab.Element, error) { return lab.NewLoss(a.float("probability"), env.Seed), nil }},
		{"burst-loss", group, "drops packets in bursts (Gilbert-Elliott)", []Param{
			{"worsen", Probability, nil, nil, "that a good link turns bad, for each packet"},
			{"recover", Probability, nil, nil, "that a bad link turns good; bursts last 1/recover packets"},
			{"loss-good", Probability, 0.0, nil, "loss while it is good"},
			{"loss-bad", Probability, 1.0, nil, "loss while it is bad"},
		}, "burst-loss:worsen=0.01,recover=0.4", func(a args, env Env) (lab.Element, error) {
			return lab.NewBurstLoss(lab.BurstConfig{Worsen: a.float("worsen"), Recover: a.float("recover"),
				LossGood: a.float("loss-good"), LossBad: a.float("loss-bad"), Seed: env.Seed}), nil
		}},
		{"reorder", group, "holds packets back at random, so that later ones overtake them", []Param{
			chance(nil), {"by", Duration, "5ms", nil, "for how long"},
		}, "reorder:probability=0.05,by=3ms", func(a args, env Env) (lab.Element, error) {
			return lab.NewReorder(a.float("probability"), a.time("by"), env.Seed), nil
		}},
		{"duplicate", group, "sends packets twice at random", []Param{
			chance(nil), {"after", Duration, "1ms", nil, "when the copy follows"},
		}, "duplicate:probability=0.1", func(a args, env Env) (lab.Element, error) {
			return lab.NewDuplicate(a.float("probability"), a.time("after"), env.Seed), nil
		}},
		{"bit-errors", group, "turns over single bits: a noisy link, or one that spoils data unseen", []Param{
			chance(nil),
			{"checksum", Word, "wrong", []string{"wrong", "valid"}, "wrong: receivers notice; valid: only TCP payload is spoilt, and TCP does not notice"},
		}, "bit-errors:probability=0.05", func(a args, env Env) (lab.Element, error) {
			return lab.NewBitErrors(a.float("probability"), a.word("checksum") == "valid", env.Seed), nil
		}},
		{"dead", group, "goes down after some packets or a time, for a while or for good", []Param{
			{"after-packets", Int, 0, nil, "packets that still pass"},
			{"after-time", Duration, "0s", nil, "since the first packet"},
			{"back", Duration, "0s", nil, "works again after so long; 0s: never"},
		}, "dead:after-packets=6,back=2s", func(a args, _ Env) (lab.Element, error) {
			return lab.NewDead(lab.DeadConfig{AfterPackets: a.int("after-packets"), AfterTime: a.time("after-time"), Back: a.time("back")}), nil
		}},
	}
}

func optionKinds() []Kind {
	const group = "options"
	return []Kind{
		{"strip-options", group, "takes TCP options away, by NOPs or by writing the header anew", []Param{
			kindsParam("unknown"), fromParam(),
			{"how", Word, "nop", []string{"nop", "remove"}, "overwrite with NOPs, or shorten the header"},
		}, "strip-options:kinds=69,from=syn", func(a args, _ Env) (lab.Element, error) {
			return lab.NewStripOptions(a.kinds("kinds"), a.segments("from"), a.word("how") == "remove"), nil
		}},
		{"echo-options", group, "copies options of the SYN into the SYN-ACK", []Param{kindsParam("unknown")},
			"echo-options", func(a args, _ Env) (lab.Element, error) { return lab.NewEchoOptions(a.kinds("kinds")), nil }},
		{"corrupt-option", group, "turns over a bit in the content of options, checksum right", []Param{kindsParam("unknown"), fromParam()},
			"corrupt-option:kinds=69,from=syn", func(a args, env Env) (lab.Element, error) {
				return lab.NewCorruptOption(a.kinds("kinds"), a.segments("from"), env.Seed), nil
			}},
		{"add-option", group, "adds an option of one's own, as a host with a new option or a marking box", []Param{
			{"kind", Int, 253, nil, "2 to 255; 253 and 254 are for experiments (RFC 6994)"},
			{"data", Hex, "", nil, "content in hexadecimal, at most 38 octets; with 253 it begins with an ExID"},
			fromParam(),
		}, "add-option:data=4953cafe,towards=b", func(a args, _ Env) (lab.Element, error) {
			if n := a.int("kind"); n < 2 || n > 255 {
				return nil, fmt.Errorf("%w: kind = %d: expected 2 to 255", ErrParam, n)
			}
			return lab.NewAddOption(uint8(a.int("kind")), a.hex("data"), a.segments("from")), nil
		}},
		{"clamp-mss", group, "lowers the MSS option of SYNs", []Param{{"to", Int, nil, nil, "octets"}},
			"clamp-mss:to=1220", func(a args, _ Env) (lab.Element, error) {
				if n := a.int("to"); n < 1 || n > 65535 {
					return nil, fmt.Errorf("%w: to = %d: expected 1 to 65535", ErrParam, n)
				}
				return lab.NewClampMSS(uint16(a.int("to"))), nil
			}},
	}
}

func synKinds() []Kind {
	const group = "SYN"
	return []Kind{
		{"block-syn-options", group, "blocks SYNs that carry certain options", []Param{kindsParam("unknown"), answerParam()},
			"block-syn-options:kinds=69", func(a args, _ Env) (lab.Element, error) {
				return lab.NewBlockOption(a.kinds("kinds"), a.answer("answer")), nil
			}},
		{"block-syn-data", group, "blocks SYNs that carry data", []Param{answerParam()},
			"block-syn-data:answer=reset", func(a args, _ Env) (lab.Element, error) { return lab.NewBlockSYNData(a.answer("answer")), nil }},
		{"strip-syn-data", group, "cuts the data off SYNs", nil, "strip-syn-data",
			func(args, Env) (lab.Element, error) { return new(lab.StripSYNData), nil }},
		{"delay-syn", group, "holds SYNs back", []Param{{"by", Duration, nil, nil, "for how long"}},
			"delay-syn:by=300ms", func(a args, _ Env) (lab.Element, error) { return lab.NewDelaySYN(a.time("by")), nil }},
		{"duplicate-syn", group, "sends SYNs and SYN-ACKs twice", []Param{{"after", Duration, "10ms", nil, "when the copy follows"}},
			"duplicate-syn", func(a args, _ Env) (lab.Element, error) { return lab.NewDuplicateSYN(a.time("after")), nil }},
	}
}

func segmentKinds() []Kind {
	const group = "segments"
	return []Kind{
		{"split", group, "cuts data segments into smaller ones", []Param{{"size", Size, nil, nil, "of data in each, at most"}},
			"split:size=500", func(a args, _ Env) (lab.Element, error) {
				if err := a.atLeast("size", 1); err != nil {
					return nil, err
				}
				return lab.NewSplit(a.int("size")), nil
			}},
		{"coalesce", group, "joins data segments; between real interfaces they must fit the MTU", []Param{
			{"size", Size, nil, nil, "of data in one, at most"},
			{"wait", Duration, "1ms", nil, "how long a segment waits for the next"},
		}, "coalesce:size=4000", func(a args, _ Env) (lab.Element, error) {
			if err := a.atLeast("size", 1); err != nil {
				return nil, err
			}
			return lab.NewCoalesce(a.int("size"), a.time("wait")), nil
		}},
		{"rewrite-sequence", group, "replaces initial sequence numbers, SACK blocks with them or not", []Param{
			{"sack", Bool, true, nil, "put SACK blocks right; false: a broken box"},
		}, "rewrite-sequence:sack=false", func(a args, env Env) (lab.Element, error) {
			return lab.NewRewriteSequence(a.bool("sack"), env.Seed), nil
		}},
	}
}

func boxKinds() []Kind {
	const group = "boxes"
	return []Kind{
		{"splice", group, "a proxy: ends each TCP connection and opens another", []Param{
			{"accept", Word, "late", []string{"late", "early"}, "early: before the other connection is open"},
			{"mtu", Size, splice.DefaultMTU, nil, "of its links"},
		}, "splice", func(a args, env Env) (lab.Element, error) {
			if n := a.int("mtu"); n < 1280 || n > 65535 {
				return nil, fmt.Errorf("%w: mtu = %d: expected 1280 to 65535", ErrParam, n)
			}
			return splice.New(splice.Config{Early: a.word("accept") == "early", MTU: a.int("mtu"), Tune: env.Tune})
		}},
		{"nat", group, "gives what A sends another address and port; no way in from B", []Param{
			{"external4", Text, "198.18.255.1", nil, "its IPv4 address"},
			{"external6", Text, "fd00::ffff:1", nil, "its IPv6 address"},
			{"idle", Duration, "2h4m", nil, "after which an open connection is forgotten"},
			{"opening", Duration, "4m", nil, "after which a half-open or closed one is"},
		}, "nat:idle=5m", func(a args, _ Env) (lab.Element, error) {
			four, err4 := netip.ParseAddr(a.word("external4"))
			six, err6 := netip.ParseAddr(a.word("external6"))
			if err4 != nil || err6 != nil || !four.Is4() || !six.Is6() {
				return nil, fmt.Errorf("%w: external4 and external6 must be an IPv4 and an IPv6 address", ErrParam)
			}
			return lab.NewNAT(lab.NATConfig{External4: four, External6: six, Idle: a.time("idle"), Opening: a.time("opening")}), nil
		}},
		{"firewall", group, "lets connections be opened from A only, and knows them", []Param{
			{"inbound", Bool, false, nil, "let B open connections too"},
			{"strict", Bool, false, nil, "drop what does not fit the windows"},
			answerParam(),
			{"idle", Duration, "1h", nil, "after which a connection is forgotten"},
		}, "firewall:strict=true", func(a args, _ Env) (lab.Element, error) {
			return lab.NewFirewall(lab.FirewallConfig{Inbound: a.bool("inbound"), Strict: a.bool("strict"), Answer: a.answer("answer"), Idle: a.time("idle")}), nil
		}},
		{"block-ciphertext", group, "blocks connections whose first data looks like noise", filterParams(),
			"block-ciphertext", func(a args, _ Env) (lab.Element, error) { return filter(a, lab.BlocksCiphertext), nil }},
		{"block-unknown", group, "blocks connections whose first data is of no protocol it knows", append([]Param{
			{"allow", Words, lab.Protocols(), lab.Protocols(), "protocols that pass"},
		}, filterParams()...), "block-unknown:allow=http+tls", func(a args, _ Env) (lab.Element, error) {
			offends, ok := lab.Unless(a.words("allow")...)
			if !ok {
				return nil, ErrParam
			}
			return filter(a, offends), nil
		}},
		{"black-hole", group, "a link with a small MTU, whose router says so or not", []Param{
			{"mtu", Size, nil, nil, "octets, IP header included"},
			{"icmp", Bool, false, nil, "tell the sender"},
		}, "black-hole:mtu=1400,icmp=true", func(a args, _ Env) (lab.Element, error) {
			if err := a.atLeast("mtu", minMTU); err != nil {
				return nil, err
			}
			return lab.NewBlackHole(a.int("mtu"), a.bool("icmp")), nil
		}},
		routerKind(group),
	}
}

func filterParams() []Param {
	return []Param{answerParam(), {"residual", Duration, "0s", nil, "how long to block the same hosts and port afterwards"}}
}

func filter(a args, offends func([]byte) bool) lab.Element {
	return lab.NewFilter(lab.FilterConfig{Offends: offends, Answer: a.answer("answer"), Residual: a.time("residual")})
}

func attackKinds() []Kind {
	const group = "attacks"
	return []Kind{
		{"inject-reset", group, "forges RSTs into connections", []Param{
			{"attack", Word, "on-path", words(attackWords), "what the attacker knows"},
			{"victim", Word, "both", []string{"a", "b", "both"}, "whom the RST is sent to"},
			{"after", Int, 1, nil, "data segments that pass before"},
			{"count", Int, 1, nil, "RSTs for each connection and victim"},
		}, "inject-reset:attack=off-path,count=5", func(a args, env Env) (lab.Element, error) {
			if err := a.atLeast("count", 1); err != nil {
				return nil, err
			}
			return lab.NewInjectReset(lab.InjectResetConfig{Attack: attackWords[a.word("attack")], To: a.side("victim"),
				Both: a.word("victim") == "both", After: a.int("after"), Count: a.int("count"), Seed: env.Seed}), nil
		}},
		{"inject-icmp", group, "sends ICMP errors about segments, true or forged", []Param{
			{"message", Word, "host-unreachable", words(messageWords), "which"},
			{"mtu", Size, 1280, nil, "in too-big"},
			{"about", Word, "b", []string{"a", "b"}, "segments that travel to this side"},
			{"after", Int, 0, nil, "segments that pass before"},
			{"count", Int, 1, nil, "so many are answered; 0: all"},
			{"drop", Bool, false, nil, "drop them too"},
		}, "inject-icmp:message=host-unreachable,after=2", func(a args, _ Env) (lab.Element, error) {
			return lab.NewInjectICMP(lab.InjectICMPConfig{Message: a.message("message"), MTU: a.int("mtu"), To: a.side("about"),
				After: a.int("after"), Count: a.int("count"), Drop: a.bool("drop")}), nil
		}},
		floodKind(group),
	}
}
