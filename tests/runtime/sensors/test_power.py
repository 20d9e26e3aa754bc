import pytest
from stretto.runtime.sensors.power import Power

from .trees import plant, under


def battery(name, capacity, status="Discharging", **more):
    files = {"type": "Battery\n", "capacity": f"{capacity}\n", "status": f"{status}\n"} | more
    return under(f"sys/class/power_supply/{name}", files)


def mains(name, online, kind="Mains"):
    return under(f"sys/class/power_supply/{name}", {"type": f"{kind}\n", "online": f"{online}\n"})


@pytest.mark.parametrize("online", [0, 1])
def test_mains_say_whether_it_is_plugged_in(tmp_path, online):
    plant(tmp_path, battery("BAT0", 80, "Not charging"), mains("AC", online))
    assert Power(tmp_path).read() == {"battery": 0.8, "on_mains": bool(online)}


def test_any_of_several_supplies_is_enough(tmp_path):
    plant(tmp_path, mains("AC", 0), mains("ucsi-source-psy-USBC000:001", 1, "USB"))
    assert Power(tmp_path).read() == {"battery": None, "on_mains": True}


def test_several_batteries_are_averaged(tmp_path):
    assert Power(plant(tmp_path, battery("BAT0", 20), battery("BAT1", 60))).read()["battery"] == pytest.approx(0.4)


def test_batteries_of_a_mouse_are_not_the_devices(tmp_path):
    plant(tmp_path, battery("BAT0", 50), battery("hidpp_battery_0", 5, scope="Device\n"))
    assert Power(tmp_path).read() == {"battery": 0.5, "on_mains": False}


@pytest.mark.parametrize(("status", "on_mains"), [("Discharging", False), ("Charging", True), ("Full", True)])
def test_without_mains_the_battery_tells(tmp_path, status, on_mains):
    assert Power(plant(tmp_path, battery("axp20x-battery", 50, status))).read()["on_mains"] is on_mains


def test_a_machine_without_battery_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no battery and no mains"):
        Power(tmp_path)
