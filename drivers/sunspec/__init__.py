"""SunSpec inverters, meters and batteries."""
