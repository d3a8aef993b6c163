package shim

import "reflect"

// Fill puts a unit's limits into a libcontainer Resources struct of whatever version: by field name, with the field's own
// type (PidsLimit became a pointer, the device rule moved between packages), and not at all where there is no such field.
//
// A slice gets no device rules, as the kubelet has it; a scope may use every device. Both can be said otherwise.
func Fill(resources any, unit Unit) {
	target := reflect.ValueOf(resources).Elem()
	r := unit.Resources
	for name, limit := range map[string]any{
		"Memory": r.Memory, "MemorySwap": r.MemorySwap, "PidsLimit": r.Pids, "CpuShares": r.CPUShares, "CpuWeight": r.CPUWeight,
		"CpuQuota": r.CPUQuota, "CpuPeriod": r.CPUPeriod, "CpusetCpus": r.CpusetCpus, "CpusetMems": r.CpusetMems,
		"BlkioWeight": r.BlkioWeight,
	} {
		if value := reflect.ValueOf(limit); !value.IsNil() {
			setField(target, name, value.Elem())
		}
	}
	slice := unit.Name == unit.Full
	skipDevices, skipFreeze := slice, slice
	if r.SkipDevices != nil {
		skipDevices = *r.SkipDevices != 0
	}
	if r.SkipFreeze != nil {
		skipFreeze = *r.SkipFreeze != 0
	}
	SetField(resources, "SkipDevices", skipDevices)
	SetField(resources, "SkipFreezeOnSet", skipFreeze)
	if !skipDevices {
		allowEveryDevice(target)
	}
}

// SetField sets a field of the struct that target points to, if there is one of that name.
func SetField(target any, name string, value any) {
	setField(reflect.ValueOf(target).Elem(), name, reflect.ValueOf(value))
}

func setField(target reflect.Value, name string, value reflect.Value) {
	field := target.FieldByName(name)
	if !field.IsValid() {
		return
	}
	if field.Kind() == reflect.Pointer && value.Kind() != reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	field.Set(value.Convert(field.Type()))
}

// allowEveryDevice appends the rule "a *:* rwm" where the version has a list of rules.
func allowEveryDevice(target reflect.Value) {
	list := target.FieldByName("Devices")
	if !list.IsValid() || list.Kind() != reflect.Slice || list.Type().Elem().Kind() != reflect.Pointer {
		return
	}
	rule := reflect.New(list.Type().Elem().Elem())
	const everyType, every = 'a', int64(-1)
	SetField(rule.Interface(), "Type", everyType)
	SetField(rule.Interface(), "Major", every)
	SetField(rule.Interface(), "Minor", every)
	SetField(rule.Interface(), "Permissions", "rwm")
	SetField(rule.Interface(), "Allow", true)
	list.Set(reflect.Append(list, rule))
}
